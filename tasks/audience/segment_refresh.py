"""Who joins and who leaves a segment: everybody on its schedule, single people when an event touches them.

::

    event ─trigger→ segment_touch ─work_touches()→ segment_present, segment_edge
    segment.due_at ─────────────────── refresh() → the same, for everybody

Each is one transaction under the lock of the segment's row, so a kill leaves nothing half done and
what was due is due again. Of whom a condition cannot be decided, since a score or label is missing
or too old, nothing is changed: they stay in, or out, as they were.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import OperationalError

from models.session import Database
from schedules.expression import read
from schedules.segment import next_refresh
from tasks.segment_query import segment_query
from tasks.segments import segment_sql

BATCH: Final = 10_000
"""Touches that are worked off in one transaction."""
FLOOD: Final = 100_000
"""Where more wait, the segments that they touch are evaluated for everybody instead."""
MANY: Final = 10_000
EVERYBODY: Final = 0
"""As the subscriber of a touch, where more than `MANY` were moved at once."""
FIRST_PAUSE: Final = dt.timedelta(minutes=1)
LONGEST_PAUSE: Final = dt.timedelta(minutes=30)

log = structlog.get_logger()

# "segm" as a number, in the space of two-argument advisory locks. One process of the fleet works on
# touches and one on a refresh, so that they never take all the threads of a pool.
LOCK_SPACE: Final = 0x7365676D
SLOT = text("SELECT pg_try_advisory_xact_lock(:space, :slot)")
TOUCHES, REFRESH = 1, 2

DUE = text("""
SELECT key, condition, refresh, zone, changed FROM segment
WHERE due_at <= (SELECT clock_timestamp()) ORDER BY due_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
""")
NAMED = text("""
SELECT key, condition, refresh, zone, changed FROM segment WHERE key = :key FOR NO KEY UPDATE
""")

# The planner sees the values (an event's name says how many there are), hashes fit into memory, and
# no loop is chosen for what was just filled and has no statistics yet.
PREPARED = text("""
SELECT set_config('plan_cache_mode', 'force_custom_plan', true),
    set_config('enable_nestloop', 'off', true),
    set_config('work_mem', '96MB', true), set_config('statement_timeout', '15min', true),
    clock_timestamp() AS now
""")
# Of how many people a list of ids is, no plan knows: by loops ten thousand would be compared with ten
# thousand.
BY_HASH = text("SELECT set_config('enable_nestloop', 'off', true)")
# A table of its own, since Postgres computes it on several cores, as no statement that writes.
FOUND = "CREATE TEMPORARY TABLE segment_found ON COMMIT DROP AS\n"
LOOK = text("ANALYZE segment_found (subscriber_id)")
COUNT = text("SELECT count(*) FILTER (WHERE answer IS NULL) FROM segment_found")
OF_ALL = "SELECT f.subscriber_id, f.answer FROM segment_found f"
OF_SOME = """
    SELECT a.subscriber_id, a.answer FROM (
        SELECT s.id AS subscriber_id, ({answer}) AS answer FROM subscriber s
        WHERE s.id = ANY(CAST(:ids AS bigint[])) OFFSET 0) a
    WHERE a.answer IS NOT FALSE"""

# Who is found and not in it joins; who is in it and not found leaves. Whoever is found without an
# answer does neither. What asks for this segment looks at those again; of many, at everybody.
MOVE = """
WITH found AS MATERIALIZED ({found}),
came AS (
    INSERT INTO segment_present (segment, subscriber_id, join_no, since)
    SELECT CAST(:key AS text), f.subscriber_id, 1 + coalesce((
        SELECT e.join_no FROM segment_edge e
        WHERE e.subscriber_id = f.subscriber_id AND e.segment = CAST(:key AS text)
        ORDER BY e.join_no DESC LIMIT 1), 0), statement_timestamp()
    FROM found f
    WHERE f.answer AND NOT EXISTS (
        SELECT FROM segment_present p
        WHERE p.segment = CAST(:key AS text){scope} AND p.subscriber_id = f.subscriber_id)
    RETURNING subscriber_id, join_no),
gone AS (
    DELETE FROM segment_present p
    WHERE p.segment = CAST(:key AS text){scope} AND NOT EXISTS (
        SELECT FROM found f WHERE f.subscriber_id = p.subscriber_id)
    RETURNING subscriber_id, join_no),
edge AS (
    INSERT INTO segment_edge (segment, subscriber_id, join_no, edge, cause)
    SELECT CAST(:key AS text), x.subscriber_id, x.join_no, x.edge, CAST(:cause AS text)
    FROM (SELECT came.*, 'join' AS edge FROM came
          UNION ALL SELECT gone.*, 'leave' FROM gone) x
    ORDER BY x.subscriber_id
    RETURNING subscriber_id, edge),
touch AS (
    INSERT INTO segment_touch (subscriber_id, kind, name)
    SELECT DISTINCT CASE WHEN c.n > {many} THEN {everybody} ELSE e.subscriber_id END, 'segment',
        CAST(:key AS text)
    FROM edge e, (SELECT count(*) AS n FROM edge) c
    WHERE EXISTS (SELECT FROM segment_need n
        WHERE n.kind = 'segment' AND n.name = CAST(:key AS text)))
SELECT count(*) FILTER (WHERE edge = 'join') AS joined,
    count(*) FILTER (WHERE edge = 'leave') AS gone FROM edge
"""

EVALUATED = text("""
UPDATE segment SET members = members + :change, unknown = :unknown, evaluated_at = :at,
    took = :took, due_at = :due_at, changed = false, faults = 0, fault = NULL
WHERE key = :key
""")
DUE_NOW = text("UPDATE segment SET due_at = least(due_at, clock_timestamp()) WHERE key = :key")
COUNTED = text("UPDATE segment SET members = members + :change WHERE key = :key")
FAULTY = text("""
UPDATE segment SET faults = faults + 1, fault = :fault, due_at = clock_timestamp()
    + least(CAST(:first AS interval) * power(2, least(faults, 10)), CAST(:longest AS interval))
WHERE key = :key RETURNING faults
""")
# Touches come all the time: they must not put off again and again what is to mend it.
FAULTY_TOUCH = text("""
UPDATE segment SET faults = greatest(faults, 1), fault = :fault,
    due_at = least(due_at, clock_timestamp() + CAST(:first AS interval))
WHERE key = :key RETURNING faults
""")

# Only rows whose events are committed are seen, and what evaluates them comes after: none is lost.
TAKE = text("""
WITH next AS MATERIALIZED (
    SELECT t.id FROM segment_touch t WHERE t.due_at <= (SELECT clock_timestamp())
    ORDER BY t.due_at LIMIT :n FOR UPDATE SKIP LOCKED),
taken AS (
    DELETE FROM segment_touch t USING next WHERE t.id = next.id
    RETURNING t.subscriber_id, t.kind, t.name)
SELECT n.segment AS key, array_agg(DISTINCT t.subscriber_id) AS ids,
    count(*) AS touches
FROM taken t LEFT JOIN segment_need n ON n.kind = t.kind AND n.name = t.name
GROUP BY 1 ORDER BY 1
""")
WAITING = text("""
SELECT count(*) FROM (
    SELECT FROM segment_touch t WHERE t.due_at <= (SELECT clock_timestamp()) LIMIT :n) x
""")
DRAIN = text("""
WITH taken AS (
    DELETE FROM segment_touch t WHERE t.due_at <= (SELECT clock_timestamp())
    RETURNING t.kind, t.name),
touched AS MATERIALIZED (
    SELECT g.key FROM segment g WHERE g.key IN (
        SELECT n.segment FROM segment_need n JOIN (SELECT DISTINCT kind, name FROM taken) t
        USING (kind, name))
    ORDER BY g.key FOR NO KEY UPDATE)
UPDATE segment g SET due_at = least(g.due_at, clock_timestamp())
FROM touched WHERE g.key = touched.key
""")


@dataclass(frozen=True, slots=True)
class Refreshed:
    """One evaluation for everybody; `unknown`: of whom it cannot be told. `took` in seconds."""

    key: str
    joined: int
    left: int
    unknown: int
    took: float


def refresh(database: Database, key: str | None = None) -> Refreshed | None:
    """Evaluate a segment for everybody: the one of that key, else the next that is due.

    One that fails is put off by 1, 2, 4 … 30 minutes, with the fault on its row, and `doctor` says so.

    Returns:
        What came of it; None: none is due, another process is at it, it is gone, or it failed.

    Raises:
        OperationalError: the database is gone.
    """
    with database.transaction() as connection:
        if key is None and not _slot(connection, REFRESH):
            return None
        chosen = DUE if key is None else NAMED.bindparams(key=key)
        row = connection.execute(chosen).one_or_none()
        if row is None:
            return None
        try:
            with connection.begin_nested():
                return _evaluate(connection, row)
        except Exception as fault:
            if isinstance(fault, OperationalError) and fault.connection_invalidated:
                raise
            _put_off(connection, row.key, fault)
    return None


def work_touches(database: Database) -> int:
    """Evaluate whom events and other segments have touched, a batch.

    Of so many that this would take long the segments become due for everybody instead.

    Returns:
        How many touches that were, each counted for every segment that asks for it.
    """
    with database.transaction() as connection:
        if not _slot(connection, TOUCHES):
            return 0
        waiting = int(connection.execute(WAITING, {"n": FLOOD + 1}).scalar_one())
        if waiting > FLOOD:
            connection.execute(DRAIN)
            return waiting
        touched = connection.execute(TAKE, {"n": BATCH}).all() if waiting else []
        for row in touched:
            if row.key is not None:
                _reconsider(connection, row.key, row.ids)
    return sum(row.touches for row in touched)


def _slot(connection: Connection, slot: int) -> bool:
    return bool(connection.execute(SLOT, {"space": LOCK_SPACE, "slot": slot}).scalar_one())


def _evaluate(connection: Connection, row: Any) -> Refreshed:
    began = time.monotonic()
    now = connection.execute(PREPARED).one().now
    query, parameters = segment_query(read(row.condition))
    connection.execute(text(FOUND + query), parameters)
    connection.execute(LOOK)
    cause = "definition" if row.changed else "schedule"
    statement = text(_move(OF_ALL, ""))
    done = connection.execute(statement, {"key": row.key, "cause": cause}).one()
    unknown = int(connection.execute(COUNT).scalar_one())
    connection.execute(text("DROP TABLE segment_found"))
    took = time.monotonic() - began
    connection.execute(
        EVALUATED,
        {
            "key": row.key,
            "change": done.joined - done.gone,
            "unknown": unknown,
            "at": now,
            "took": took,
            "due_at": next_refresh(row.refresh, row.zone, now),
        },
    )
    log.info("segment_evaluated", segment=row.key, joined=done.joined, left=done.gone)
    return Refreshed(row.key, done.joined, done.gone, unknown, took)


def _reconsider(connection: Connection, key: str, ids: list[int]) -> None:
    row = connection.execute(NAMED, {"key": key}).one_or_none()
    if row is None:
        return
    if EVERYBODY in ids:
        connection.execute(DUE_NOW, {"key": key})
        return
    try:
        with connection.begin_nested():
            connection.execute(BY_HASH)
            answer, parameters = segment_sql(read(row.condition))
            found = OF_SOME.format(answer=answer)
            scope = " AND p.subscriber_id = ANY(CAST(:ids AS bigint[]))"
            # Under an expression that nobody was evaluated by yet, a join is the definition's doing.
            cause = "definition" if row.changed else "event"
            values = {"key": key, "cause": cause, "ids": ids, **parameters}
            done = connection.execute(text(_move(found, scope)), values).one()
            if done.joined or done.gone:
                change = done.joined - done.gone
                connection.execute(COUNTED, {"key": key, "change": change})
    except Exception as fault:
        if isinstance(fault, OperationalError) and fault.connection_invalidated:
            raise
        # The next refresh looks at everybody, and so at these.
        _put_off(connection, key, fault, FAULTY_TOUCH)


def _move(found: str, scope: str) -> str:
    return MOVE.format(found=found, scope=scope, many=MANY, everybody=EVERYBODY)


def _put_off(
    connection: Connection, key: str, fault: Exception, statement: TextClause = FAULTY
) -> None:
    # An error of Postgres may quote an attribute: its kind alone is kept.
    orig = getattr(fault, "orig", None)
    said = type(orig).__name__ if orig is not None else f"{type(fault).__name__}: {fault}"
    values: dict[str, Any] = {"key": key, "fault": said, "first": FIRST_PAUSE}
    if statement is FAULTY:
        values["longest"] = LONGEST_PAUSE
    faults = connection.execute(statement, values).scalar_one()
    log.error("segment_not_evaluated", segment=key, fault=said, faults=faults)
