"""Rows out of a CSV file that somebody else wrote: streamed, numbered, and never trusted.

Expected is RFC 4180 in UTF-8 (a byte order mark is fine) with a header row. A bad row is handed out
as a fault with its line; only a file that cannot be read at all is an error.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from tasks.errors import Permanent

LONGEST_LINE = 1_000_000
"""Characters of a line; more is a bad row, so that no file can fill the memory."""
MOST_LINES = 200
"""Lines one row may span through its quoted fields, before the quote counts as never closed."""

NOT_UTF8 = "the row is not UTF-8 text; save the file as UTF-8"


@dataclass(slots=True)
class Row:
    """One row: `line` where it begins (from 1), `raw` its text, and its `fields` or a `fault`."""

    line: int
    raw: str
    fields: list[str] = field(default_factory=list)
    fault: str | None = None


class CsvFile:
    """A CSV file, read once from front to back.

    Args:
        source: the bytes; read to the end, never closed.
        name: what messages call the file.
        required: columns that must be there.

    Raises:
        Permanent: the file is empty, is not UTF-8, or its header lacks a column or has one twice.
    """

    def __init__(self, source: BinaryIO, name: str, required: tuple[str, ...] = ()) -> None:
        self.name = name
        text = io.TextIOWrapper(source, "utf-8-sig", errors="surrogateescape", newline="")
        self._text = text  # kept: a collected wrapper closes the bytes under it
        self._rows = _rows(iter(partial(text.readline, LONGEST_LINE), ""))
        self.columns = self._header(required)

    def _header(self, required: tuple[str, ...]) -> list[str]:
        first = next(self._rows, None)
        if first is None:
            raise Permanent(f"{self.name} is empty: expected a header row and a row a record")
        if first.fault or "\x00" in first.raw or not _is_text(first.raw):
            raise Permanent(
                f"{self.name} does not begin with a header row in UTF-8; save it as CSV in UTF-8"
            )
        columns = [column.strip() for column in first.fields]
        known = {column.casefold(): column for column in columns}
        missing = [column for column in required if column not in known]
        if missing:
            hint = "; separate columns by commas" if len(columns) == 1 else ""
            raise Permanent(
                f"{self.name} has no column {' and no column '.join(missing)}: its header is"
                f" {', '.join(columns)[:200]!r}{hint}"
            )
        columns = [c.casefold() if c.casefold() in required else c for c in columns]
        if "" in columns:
            at = columns.index("") + 1
            raise Permanent(f"{self.name} has no name for its column {at}; name it or take it out")
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise Permanent(f"{self.name} has the column {twice[0]!r} twice; rename one of them")
        return columns

    def __iter__(self) -> Iterator[Row]:
        width = len(self.columns)
        for row in self._rows:
            if row.fault is None:
                if len(row.fields) != width:
                    if not row.fields:
                        continue
                    row.fault = f"the row has {len(row.fields)} fields where the header has {width}"
                elif "\x00" in row.raw:
                    row.fault = "the row holds a NUL character"
                elif not _is_text(row.raw):
                    row.fault = NOT_UTF8
            yield row

    def detach(self) -> None:
        """Give the bytes back to the caller, who opened them."""
        self._text.detach()


def _is_text(raw: str) -> bool:
    """Whether every byte was UTF-8: `surrogateescape` maps what was not to lone surrogates."""
    if raw.isascii():
        return True
    try:
        raw.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _rows(lines: Iterator[str]) -> Iterator[Row]:
    """Rows of the lines. A quote that never closes costs its own line, not the rest of the file.

    The csv module would swallow everything after such a quote into one field: the lines of a row
    are kept until it is whole, and read again from the second one where it never becomes so.
    """
    again: deque[str] = deque()
    held: list[str] = []
    number = 1

    def feed() -> Iterator[str]:
        while True:
            line = again.popleft() if again else next(lines, "")
            if not line:
                return
            held.append(line)
            if len(held) > MOST_LINES or len(line) >= LONGEST_LINE:
                raise csv.Error
            yield line

    reader = csv.reader(feed(), strict=True)
    while True:
        try:
            fields = next(reader, None)
        except csv.Error:
            raw = held[0]
            if len(raw) >= LONGEST_LINE:
                while len(held[0]) >= LONGEST_LINE and not held[0].endswith(("\n", "\r")):
                    held[0] = next(lines, "")
                fault = f"the line is longer than {LONGEST_LINE} characters"
                raw = raw[:200]
            else:
                again.extendleft(reversed(held[1:]))
                fault = (
                    "a quote in the row is never closed, text follows a closing quote, or a field"
                    f" is longer than {csv.field_size_limit()} characters"
                )
            held.clear()
            yield Row(number, raw, fault=fault)
            number += 1
            reader = csv.reader(feed(), strict=True)
            continue
        if fields is None:
            return
        yield Row(number, held[0] if len(held) == 1 else "".join(held), fields)
        number += len(held)
        held.clear()
