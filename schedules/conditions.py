"""Expressions in a file: read where they stand, with their mistakes at the very character."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from schedules.expression import Expression, ExpressionError, read
from schedules.expression.types import COLUMNS, HIDDEN
from schedules.findings import Finding
from schedules.reading import Table

CONDITION: Final = "a condition in text such as \"sub.country == 'DE'\""
_FOLD: Final = re.compile(r" *\n[ \n]*")
VALUE: Final = 'an expression in text such as "sub.visits + 1"'


def read_expression(
    table: Table, key: str, *, condition: bool = True, scores: bool = True, event: bool = False
) -> Expression | None:
    """Read a required expression; what is wrong with it is reported at its line and column."""
    text = table.text(key, CONDITION if condition else VALUE, str, required=True)
    if text is None:
        return None
    try:
        return read(text, condition=condition, scores=scores, event=event)
    except ExpressionError as error:
        line, column = _place(table.values[key], error.at)
        message = f"{key!r} of {table.name}: {error}"
        table.report.findings.append(Finding(table.report.located.file, line, column, message))
        return None


def attribute_name(text: str) -> str:
    """Read the name of an attribute, for `Table.text` and keys.

    Raises:
        ValueError: no name, or that of a column, which is not an attribute.
    """
    if not text.strip() or len(text) > 200 or not text.isprintable():
        raise ValueError(
            f"{text[:40]!r} is no name of an attribute: expected one line of at most 200"
            " characters; correct it"
        )
    if text in COLUMNS or text in HIDDEN:
        raise ValueError(
            f"{text!r} is a field of the subscriber itself, not an attribute: expected the name of"
            " an attribute; choose another"
        )
    return text


def _place(node: Any, at: int) -> tuple[int, int]:
    """Return line and column, in the file, of the character ``at`` of a scalar."""
    buffer, begin = node.start_mark.buffer, node.start_mark.index
    found = list(islice(_characters(node), at + 1))
    place = found[-1] if found else begin
    line = buffer.count("\n", begin, place)
    if line == 0:
        return node.start_mark.line + 1, node.start_mark.column + 1 + place - begin
    return node.start_mark.line + 1 + line, place - buffer.rfind("\n", 0, place)


def _characters(node: Any) -> Iterator[int]:
    """Yield where each character of a scalar stands in the text, and where it ends.

    Quotes, doubled quotes and folded lines are walked over; it stops where text and value part,
    as at an escape that stands for another character.
    """
    buffer, at = node.start_mark.buffer, node.start_mark.index
    if node.style in ("|", ">"):
        at = _FOLD.search(buffer, at).end()  # type: ignore[union-attr]
    elif node.style in ("'", '"'):
        at += 1
    for index, char in enumerate(node.value):
        fold = _FOLD.match(buffer, at) if char in " \n" else None
        if fold is None and node.style == "'" and buffer.startswith("''", at):
            yield at
            at += 2
        elif fold is None and node.style == '"' and buffer[at : at + 2] in ('\\"', "\\\\"):
            yield at
            at += 2
        elif fold is None and buffer[at : at + 1] != char:
            return
        else:
            yield at
            after = node.value[index + 1 :]
            kept = len(after) - len(after.lstrip(" "))  # what is indented further in a block
            at = at + 1 if fold is None else fold.end() - kept
    yield at
