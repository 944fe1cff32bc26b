"""Events out of NDJSON, an object a line, as rows of the same columns that a CSV file has.

What an object holds beside those becomes properties, as it is in JSON; so does what stands under
`properties`. A line that is no object is a fault of its own, and stops nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO, Final

from tasks.audience.csvfile import LONGEST_LINE, NOT_UTF8, Row
from tasks.audience.event_row import KNOWN, PROPERTIES

_SHOWN: Final = 200


def is_ndjson(source: BinaryIO) -> bool:
    """Whether the bytes begin as an object does; looks, and moves nothing."""
    if source.seekable():
        at = source.tell()
        begins = source.read(64)
        source.seek(at)
    else:
        peek: Any = getattr(source, "peek", None)
        begins = b"" if peek is None else peek(64)[:64]
    return begins.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


class NdjsonFile:
    """Lines of objects, read once from front to back.

    Args:
        source: the bytes; never closed.
        name: what messages call the file.
    """

    columns: Final = [*KNOWN, PROPERTIES]

    def __init__(self, source: BinaryIO, name: str) -> None:
        self.name = name
        self._source = source

    def __iter__(self) -> Iterator[Row]:
        number = 0
        for octets in iter(partial(self._source.readline, LONGEST_LINE), b""):
            number += 1
            if len(octets) >= LONGEST_LINE and not octets.endswith(b"\n"):
                while (rest := self._source.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                    pass
                raw = octets[:_SHOWN].decode("utf-8", "surrogateescape")
                yield Row(number, raw, fault=f"the line is longer than {LONGEST_LINE} characters")
            elif octets.strip():
                yield _row(number, octets)

    def detach(self) -> None:
        """Let go of the bytes, which their opener closes."""


def _row(number: int, octets: bytes) -> Row:
    try:
        raw = octets.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        return Row(number, octets.decode("utf-8", "surrogateescape"), fault=NOT_UTF8)
    try:
        held = json.loads(raw)
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", "nested too deeply")
        return Row(number, raw, fault=f"the line is no JSON object ({why})")
    if not isinstance(held, dict):
        return Row(number, raw, fault="the line is JSON, but no object")
    more = held.pop("properties", None) or {}
    fields = []
    for column in KNOWN:
        value = held.pop(column, None)
        if isinstance(value, bool | float | list | dict):
            return Row(number, raw, fault=f"{column} is neither text nor a whole number")
        fields.append("" if value is None else str(value))
    if any("\x00" in field or not _is_text(field) for field in fields):
        return Row(number, raw, fault="the line holds something that is not text")
    if not isinstance(more, dict):
        return Row(number, raw, fault="properties is no object of names and values")
    properties = {name: value for name, value in (held | more).items() if value is not None}
    return Row(number, raw, [*fields, json.dumps(properties) if properties else ""])


def _is_text(field: str) -> bool:
    return field.isascii() or not any("\ud800" <= character <= "\udfff" for character in field)
