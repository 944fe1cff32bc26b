"""What a model is asked to write beside the words of a mail: the shape of such a job. Pure.

Its answer is one JSON object of a fixed form (Structured Outputs), and each text in it is held to the
checks of every text: a link, an address or an offer is never a model's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from tasks.personalize import checks
from tasks.personalize.engine import EXAMPLE, LATEST_FAULT, Brief

MOST_FAULTS: Final = 6
"""Of one answer that are told; a model that did everything wrong learns nothing from the rest."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer comes to: `made` may be used, if it is not None, whatever `faults` say."""

    made: Mapping[str, Any] | None
    faults: list[str] = field(default_factory=list)


class Commission(Protocol):
    """A job for a model."""

    @property
    def tokens(self) -> int:
        """The longest answer."""

    @property
    def form(self) -> Mapping[str, Any]:
        """Of the answer, as ``response_format``."""

    def messages(self, fault: str | None) -> list[dict[str, str]]:
        """The conversation; `fault` is why the last answer was refused."""

    def read(self, content: str) -> Reading:
        """What an answer comes to."""


def conversation(
    rules: str, task: str, example: Mapping[str, Any] | None, fault: str | None
) -> list[dict[str, str]]:
    """Rules, an example of the form, and the task, each once; the last answer's fault after them."""
    shown = "" if example is None else f"\n\n{EXAMPLE}{json.dumps(example, ensure_ascii=False)}"
    made = [{"role": "system", "content": rules + shown}, {"role": "user", "content": task}]
    if fault:
        again = f"Your last answer was refused: {fault[:LATEST_FAULT]}. Answer again, without that."
        made.append({"role": "user", "content": again})
    return made


def json_schema(name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Structured Outputs: an object of exactly these properties."""
    schema = {"name": name, "strict": True, "schema": object_of(properties)}
    return {"type": "json_schema", "json_schema": schema}


def object_of(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object that has all of these, and nothing else."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def read_object(content: str, keys: Sequence[str]) -> dict[str, Any] | str:
    """The object of an answer, or what is wrong with its form, in words."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return "it is no JSON"
    if not isinstance(value, dict) or set(value) != set(keys):
        return f"it is no JSON object of exactly {', '.join(keys)}"
    return value


def line(value: Any) -> str | None:
    """A text on one line; None: it is none."""
    return " ".join(value.split()) if isinstance(value, str) else None


def refused(
    texts: Mapping[str, str], own: str, language: str, longest: Mapping[str, int]
) -> list[str]:
    """What the checks of every text say of these, but whether they are about the task.

    Args:
        texts: name → text.
        own: the words that figures, offers and signs are taken from.
        language: that they must be in.
        longest: name → characters.
    """
    brief = Brief("content", own, language, longest)
    return [why for check, why in checks.faults(texts, brief, {}) if check != "likeness"]
