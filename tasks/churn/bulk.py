"""Rows between Postgres and numpy, in the binary form of COPY.

Where no column is NULL and all have a fixed width, a row has one too: a block of rows is an array
to look at, not a text to parse. (PostgreSQL documentation, COPY, "Binary Format".)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEAD = _SIGNATURE + bytes(8)  # no flags, no extension
_TAIL = b"\xff\xff"
_KINDS = {"i8": (">i8", 8), "f8": (">f8", 8)}


def read(
    connection: psycopg.Connection[Any],
    query: str,
    parameters: Mapping[str, object],
    columns: Sequence[str],
) -> dict[str, NDArray[Any]]:
    """The rows of a query, an array a column: the first int64, the others float64.

    Args:
        connection: raw.
        query: a SELECT whose columns are one int8, then float8 that are never NULL (NaN instead).
        parameters: put in by psycopg on this side, since COPY takes none.
        columns: their names.

    Raises:
        ValueError: a column is NULL or of another type.
    """
    with connection.cursor() as cursor:
        copying = f"COPY ({query}) TO STDOUT (FORMAT binary)"
        with cursor.copy(copying.encode(), parameters) as copy:
            data = b"".join(copy)
    form = _form(["i8"] + ["f8"] * (len(columns) - 1))
    size = len(data) - len(_HEAD) - len(_TAIL)
    rows = np.frombuffer(data, form, size // form.itemsize, len(_HEAD)) if size > 0 else None
    if size % form.itemsize or (rows is not None and not _is_whole(rows, form)):
        raise ValueError(
            f"the query gives no rows of one int8 and {len(columns) - 1} float8 without a NULL:"
            " cast its columns, and coalesce them to NaN"
        )
    found: dict[str, NDArray[Any]] = {}
    for at, name in enumerate(columns):
        kind = np.int64 if at == 0 else np.float64
        found[name] = np.empty(0, kind) if rows is None else rows[f"v{at}"].astype(kind)
    return found


def write(
    connection: psycopg.Connection[Any], statement: str, columns: Sequence[NDArray[Any]]
) -> None:
    """Copy rows in.

    Args:
        connection: raw, in the transaction that is to see them.
        statement: `COPY … FROM STDIN (FORMAT binary)` into columns of int8 and float8.
        columns: an array each, int64 or float64, (n,).
    """
    kinds = ["i8" if np.issubdtype(column.dtype, np.integer) else "f8" for column in columns]
    form = _form(kinds)
    rows = np.zeros(len(columns[0]), form)
    rows["n"] = len(columns)
    for at, column in enumerate(columns):
        rows[f"l{at}"], rows[f"v{at}"] = 8, column
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        copy.write(_HEAD + rows.tobytes() + _TAIL)


def _form(kinds: Sequence[str]) -> np.dtype[Any]:
    """How a row lies: its number of fields, then length and value of each."""
    fields: list[tuple[str, str]] = [("n", ">i2")]
    for at, kind in enumerate(kinds):
        fields += [(f"l{at}", ">i4"), (f"v{at}", _KINDS[kind][0])]
    return np.dtype(fields)


def _is_whole(rows: NDArray[Any], form: np.dtype[Any]) -> bool:
    names = form.names or ()
    widths = (rows[name] == 8 for name in names if name.startswith("l"))
    return bool((rows["n"] == len(names) // 2).all()) and all(bool(w.all()) for w in widths)
