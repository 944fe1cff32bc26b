"""The two files of a batch: a line a request, and a line an answer, in JSON; pure.

Their form is that of OpenAI's Batch API, for the endpoint of single calls: a request is ``custom_id``,
``method``, ``url`` and ``body``, an answer ``custom_id``, ``response`` and ``error``. Answers come in
any order, those without one in a file of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tasks.personalize.client import Answer

ENDPOINT: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Line:
    """One answer of a batch: of which text, and what it says; None: there is none."""

    key: bytes
    answer: Answer | None


def written(key: bytes, body: Mapping[str, Any]) -> bytes:
    """The line of a request; its custom_id is the text's key, in hexadecimal digits."""
    line = {"custom_id": key.hex(), "method": "POST", "url": ENDPOINT, "body": dict(body)}
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def read(content: bytes) -> Iterator[Line]:
    """The answers of a file; a line that is of no known form, or cut off, is none."""
    for each in content.split(b"\n"):
        if each.strip() and (line := _line(each)) is not None:
            yield line


def _line(octets: bytes) -> Line | None:
    try:
        value = json.loads(octets)
        key = bytes.fromhex(value["custom_id"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    try:
        body = value["response"]["body"]
        content = body["choices"][0]["message"]["content"]
        if value["response"]["status_code"] != 200 or not isinstance(content, str | None):
            return Line(key, None)
        usage = body.get("usage") or {}
        counted = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (KeyError, TypeError, IndexError, AttributeError):
        return Line(key, None)
    tokens_in, tokens_out = (each if _count(each) else None for each in counted)
    return Line(key, Answer(content or "", tokens_in, tokens_out, 0.0))


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
