"""One open transaction as a whole database: the real moves run in it, time passes, and all is undone.

Every move gets a savepoint of its own, so what is tried out is rolled back and tried otherwise. What
a single session cannot show, waiting for locks, is shown by the tests of `live/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import pq
from sqlalchemy import Connection, text

from models.session import Database
from tasks.moves.cycle import STATEMENTS
from tasks.moves.pipeline import Parameter, Rows, StatementFailed
from tasks.upkeep.invariants import INVARIANTS

FOREVER = 1e9
"""Seconds. How late work may be, while nobody promises that reaper and planner run at all."""


class Inside(Database):
    """A database as one open transaction sees it; a transaction in it is a savepoint."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection  # and no pool: there is nothing but this

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self.connection.begin_nested():
            yield self.connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        with self.connection.begin_nested():
            yield self.connection

    def raw(self) -> psycopg.Connection[tuple[object, ...]]:
        """The connection itself: what runs on it is part of the transaction."""
        raw: Any = self.connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        return raw


class Direct:
    """The pipeline of the delivery cycle, its statements run one by one in the open transaction."""

    def __init__(self, connection: psycopg.Connection[Any], statements: dict[str, str]) -> None:
        self._pg = connection.pgconn  # prepared by `equip`

    async def run(self, calls: Sequence[tuple[str, Sequence[Parameter]]]) -> list[Rows]:
        """As `Pipeline.run`, within the transaction of the caller."""
        answers: list[Rows] = []
        for name, parameters in calls:
            result = self._pg.exec_prepared(
                name.encode(),
                [p.value for p in parameters],
                [pq.Format.BINARY if p.binary else pq.Format.TEXT for p in parameters],
            )
            self._check(result)
            answers.append(
                [
                    [result.get_value(row, column) for column in range(result.nfields)]
                    for row in range(result.ntuples)
                ]
            )
        return answers

    def close(self) -> None:
        """Nothing is to be closed: the connection is the test's."""

    @staticmethod
    def _check(result: pq.abc.PGresult) -> None:
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise StatementFailed("?????", result.error_message.decode())


# Every stamp that stands, that much earlier: as if so much time had passed since. Without the
# triggers, which would stamp or refuse it.
_COLUMNS = {
    "message": (
        "run_at", "watch_at", "parked_from", "expires_at", "armed_at", "terminal_at", "frozen_at",
        "created_at",
    ),
    "attempt": ("armed_at", "ended_at"),
    "enrollment": ("step_started_at", "due_at", "parked_from", "entered_at", "ended_at"),
    "subscriber": ("stopped_at", "created_at", "updated_at"),
    "suppression": ("at",),
    "consent": ("at",),
    "stream": ("paused_at",),
    "sequence": ("paused_at",),
    "decision": ("at",),
}  # fmt: skip
_SPANS = """allowed = (SELECT range_agg(tstzrange(lower(r) - d, upper(r) - d))
             FROM unnest(allowed) r)"""
_PASS = [
    f"UPDATE {table} SET "
    + ", ".join(f"{column} = {column} - d" for column in columns)
    + (f", {_SPANS}" if table == "message" else "")
    + ";"
    for table, columns in _COLUMNS.items()
]
TIME_PASSES = f"""
CREATE FUNCTION pg_temp.time_passes(d interval) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL session_replication_role = replica;
    {" ".join(_PASS)}
    SET LOCAL session_replication_role = origin;
END $$
"""
PASS = text("SELECT pg_temp.time_passes(make_interval(secs => :seconds))")

# All invariants in one statement: it is asked after every single move.
AUDIT = " UNION ALL ".join(
    f"SELECT '{each.name}' AS name, v.message_id, v.enrollment_id, v.subscriber_id, v.detail"
    f" FROM ({each.sql}) v"
    for each in INVARIANTS
)
VALUES = {"armed_lease": "660", "grace": "60", "slack": str(FOREVER), "slo": str(FOREVER)}


def equip(connection: Connection, rows: str) -> None:
    """Prepare on a connection, outside any transaction, what is asked thousands of times."""
    raw: Any = connection.connection.driver_connection
    # psycopg would forget ours with its own at every ROLLBACK.
    raw.prepare_threshold = None
    audit = AUDIT
    for name, value in VALUES.items():
        audit = audit.replace(f":{name}", value)
    raw.execute(f"PREPARE model_audit AS {audit}")
    raw.execute(f"PREPARE model_rows AS {rows}")
    raw.execute(TIME_PASSES)
    raw.commit()
    for name, sql in STATEMENTS.items():
        Direct._check(raw.pgconn.prepare(name.encode(), sql.encode()))


def audit(connection: Connection) -> list[Any]:
    """Rows (name, message_id, enrollment_id, subscriber_id, detail) that break an invariant."""
    return list(connection.exec_driver_sql("EXECUTE model_audit").all())
