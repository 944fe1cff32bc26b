"""Several prepared statements in one write and one implicit transaction, on libpq itself.

`psycopg.Connection.pipeline` writes each statement by itself; the delivery cycle wants LOCK, RECORD
and ARM to leave together (7 % of its CPU). No BEGIN: statements up to a sync are one transaction.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import pq

from tasks.crashpoint import reached

TEXT_OID = 25
BYTEA_OID = 17


class StatementFailed(Exception):
    """Postgres refused the pipeline; nothing of it happened.

    Attributes:
        sqlstate: five characters, e.g. `55P03` for a lock that was not to be had in time.
    """

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"{sqlstate} {message}")
        self.sqlstate = sqlstate


class ConnectionLost(Exception):
    """The connection ended inside a pipeline: whether it committed is not known."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One encoded parameter; `binary` says in which of Postgres's two formats."""

    value: bytes
    binary: bool = False


def integers(values: Sequence[int]) -> Parameter:
    """An array of integers, of whatever width the statement casts it to."""
    return Parameter(b"{%s}" % ",".join(map(str, values)).encode())


def blobs(values: Sequence[bytes | None]) -> Parameter:
    """A `bytea[]`."""
    return _array(BYTEA_OID, values)


def texts(values: Sequence[str | None]) -> Parameter:
    """A `text[]`; NUL, which Postgres's text cannot hold, is left out."""
    encoded = [None if v is None else v.replace("\0", "").encode() for v in values]
    return _array(TEXT_OID, encoded)


def stamps(values: Sequence[str]) -> Parameter:
    """A `timestamptz[]`, from stamps in Postgres's own text."""
    return Parameter(b"{%s}" % ",".join(f'"{value}"' for value in values).encode())


def scalar(value: object) -> Parameter:
    """Anything whose `str` Postgres reads as the type the statement casts it to."""
    return Parameter(str(value).encode())


def _array(oid: int, values: Sequence[bytes | None]) -> Parameter:
    if not values:
        return Parameter(struct.pack("!iii", 0, 0, oid), binary=True)
    has_null = int(any(value is None for value in values))
    parts = [struct.pack("!iiiii", 1, has_null, oid, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            parts.append(struct.pack("!i", len(value)))
            parts.append(value)
    return Parameter(b"".join(parts), binary=True)


Rows = list[list[bytes | None]]


class Pipeline:
    """A connection of its own for groups of prepared statements.

    Args:
        connection: in autocommit, and used for nothing else from now on.
        statements: name → SQL with `$1`, `$2`, …; prepared at once.
    """

    def __init__(
        self, connection: psycopg.Connection[tuple[object, ...]], statements: dict[str, str]
    ) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        for name, sql in statements.items():
            result = self._pg.prepare(name.encode(), sql.encode())
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise StatementFailed(*_fault(result))
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()

    async def run(self, calls: Sequence[tuple[str, Sequence[Parameter]]]) -> list[Rows]:
        """Run statements as one transaction, in one write.

        Returns:
            For each call its rows, each row its columns in text format (None: NULL).

        Raises:
            StatementFailed: one of them failed, and so none of them happened.
            ConnectionLost: the answer will never come; the transaction may stand or not.
        """
        pg = self._pg
        try:
            for name, parameters in calls:
                pg.send_query_prepared(
                    name.encode(),
                    [p.value for p in parameters],
                    [pq.Format.BINARY if p.binary else pq.Format.TEXT for p in parameters],
                )
            pg.pipeline_sync()
            await self._flush()
            reached("cycle.written")
            return await self._results()
        except psycopg.OperationalError as error:
            raise ConnectionLost(str(error).strip()) from error

    def close(self) -> None:
        """Close the connection; a pipeline under way is lost."""
        self._connection.close()

    async def _flush(self) -> None:
        while self._pg.flush():
            # libpq asks to read as well while it cannot write, or both sides may stall.
            await _ready(self._pg.socket, write=True)
            self._pg.consume_input()

    async def _results(self) -> list[Rows]:
        pg = self._pg
        answers: list[Rows] = []
        fault: StatementFailed | None = None
        while True:
            while pg.is_busy():
                await _ready(pg.socket)
                pg.consume_input()
            result = pg.get_result()
            if result is None:
                continue
            status = result.status
            if status == pq.ExecStatus.PIPELINE_SYNC:
                break
            if status == pq.ExecStatus.TUPLES_OK:
                answers.append(
                    [
                        [result.get_value(row, column) for column in range(result.nfields)]
                        for row in range(result.ntuples)
                    ]
                )
            elif status == pq.ExecStatus.FATAL_ERROR:
                if pg.status == pq.ConnStatus.BAD:
                    raise ConnectionLost(_fault(result)[1])
                fault = StatementFailed(*_fault(result))
        if fault is not None:
            raise fault
        return answers


def _fault(result: pq.abc.PGresult) -> tuple[str, str]:
    sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    return sqlstate.decode(), message.decode(errors="replace").strip()


async def _ready(socket: int, *, write: bool = False) -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def wake() -> None:
        if not done.done():
            done.set_result(None)

    loop.add_reader(socket, wake)
    if write:
        loop.add_writer(socket, wake)
    try:
        await done
    finally:
        loop.remove_reader(socket)
        if write:
            loop.remove_writer(socket)
