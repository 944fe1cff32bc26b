"""Columns between Postgres and numpy: one array of Postgres a column, in its binary form.

The elements of an array without a NULL have a fixed width, so a column is bytes to look at and not
values to parse: reading a row costs a thirtieth of what COPY costs, whose client takes rows one by
one. (PostgreSQL source, src/backend/utils/adt/arrayfuncs.c, array_send.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEAD = np.dtype([("n", ">i4", 5)])  # dimensions, NULLs, type of the elements, length, first index
_OIDS = {"i8": 20, "f8": 701}


class _Bytes(bytes):
    """An array in its binary form; each type of its elements is a class, by which psycopg knows it."""


class Int8s(_Bytes):
    """A parameter int8[]."""


class Float8s(_Bytes):
    """A parameter float8[]."""


class _Int8sDumper(Dumper):
    format, oid = Format.BINARY, 1016

    def dump(self, obj: Any) -> bytes:
        return bytes(obj)


class _Float8sDumper(_Int8sDumper):
    oid = 1022


def understand(connection: psycopg.Connection[Any]) -> None:
    """Let a connection take what `array` makes: it knows only what was known when it was opened."""
    connection.adapters.register_dumper(Int8s, _Int8sDumper)
    connection.adapters.register_dumper(Float8s, _Float8sDumper)


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
        parameters: put in by psycopg on this side, so that the server plans for their values.
        columns: their names.

    Raises:
        ValueError: a column is NULL or of another type.
    """
    asked = psycopg.ClientCursor(connection).mogrify(query.encode(), parameters)
    named = [f"c{at}" for at in range(len(columns))]
    gathered = ", ".join(f"array_agg(q.{name})" for name in named)
    with connection.cursor(binary=True) as cursor:
        query = f"SELECT {gathered} FROM ({asked}) q ({', '.join(named)})"
        cursor.execute(query.encode(), prepare=False)
        given = cursor.pgresult
        assert given is not None
        return {
            name: _column(given.get_value(0, at), "f8" if at else "i8", name)
            for at, name in enumerate(columns)
        }


def array(column: NDArray[Any]) -> Int8s | Float8s:
    """A column (n,) of int64 or float64 as a parameter int8[] or float8[]; see `understand`."""
    kind = "i8" if np.issubdtype(column.dtype, np.integer) else "f8"
    rows = np.empty(len(column), _form(kind))
    rows["l"], rows["v"] = 8, column
    head = np.array([1, 0, _OIDS[kind], len(column), 1], ">i4")
    return (Int8s if kind == "i8" else Float8s)(head.tobytes() + rows.tobytes())


def _column(data: bytes | None, kind: str, name: str) -> NDArray[Any]:
    if data is None:  # of no rows
        return np.empty(0, kind)
    dimensions, nulls, oid, n, _ = np.frombuffer(data, _HEAD, 1)["n"][0].tolist()
    if (dimensions, nulls, oid) != (1, 0, _OIDS[kind]):
        raise ValueError(
            f"the query gives no column {name!r} of {'float8' if kind == 'f8' else 'int8'} without a"
            " NULL: cast it, and coalesce it to NaN"
        )
    return np.frombuffer(data, _form(kind), n, _HEAD.itemsize)["v"].astype(kind)


def _form(kind: str) -> np.dtype[Any]:
    """How an element lies: its length, then its value."""
    return np.dtype([("l", ">i4"), ("v", f">{kind}")])
