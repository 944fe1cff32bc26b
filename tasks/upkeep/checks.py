"""What `dripfleet doctor` asks the database: each a few index look-ups, also with millions of rows.

Ages are in seconds by Postgres's clock; nothing here judges, and nothing names an address or the
text of anybody's query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

MOST: Final = 10_000
"""Where counting stops, and how many messages at the head of each queue are looked at."""

# Of this transaction alone, as a pooler keeps no session's settings.
BOUND = text("SELECT set_config('statement_timeout', '15s', true)")
NOW = text("SELECT extract(epoch FROM clock_timestamp())::float8")
CLOCKS = text("""
SELECT worker, clock_ahead AS ahead FROM canary
WHERE abs(clock_ahead) > :most AND seen_at > clock_timestamp() - interval '1 hour' ORDER BY 1 LIMIT 20
""")
POOLS = text("""
SELECT pool, extract(epoch FROM clock_timestamp() - max(seen_at))::float8 AS ago
FROM canary GROUP BY 1 ORDER BY 1
""")
TICKS = text("""
SELECT name, extract(epoch FROM clock_timestamp() - seen_at)::float8 AS ago FROM tick ORDER BY 1
""")
STREAMS = text("""
SELECT t.key, t.region, t.pause_reason,
    extract(epoch FROM clock_timestamp() - t.paused_at)::float8 AS paused_for,
    extract(epoch FROM clock_timestamp() - (
        SELECT m.run_at FROM message m
        WHERE m.stream = t.key AND m.run_at <= (SELECT clock_timestamp())
        ORDER BY m.run_at LIMIT 1))::float8 AS oldest_due
FROM stream t ORDER BY 1
""")
SEQUENCES = text("""
SELECT key, pause_reason, extract(epoch FROM clock_timestamp() - paused_at)::float8 AS paused_for
FROM sequence WHERE paused_at IS NOT NULL ORDER BY 1
""")
TO_PLAN = text("""
SELECT extract(epoch FROM clock_timestamp() - (
    SELECT e.due_at FROM enrollment e WHERE e.due_at <= (SELECT clock_timestamp())
    ORDER BY e.due_at LIMIT 1))::float8
""")
# Of those that were heard of, and of those whose turn it is in a sequence that has places for all.
UNHEARD = text("""
SELECT extract(epoch FROM clock_timestamp() - (
    SELECT n.recorded_at FROM event_news n ORDER BY n.event_id LIMIT 1))::float8 AS news,
    extract(epoch FROM clock_timestamp() - (
    SELECT min(r.look_at) FROM sequence q
    JOIN sequence_version v ON v.sequence_key = q.key AND v.version = q.version,
    LATERAL (SELECT x.look_at FROM entry_request x
             WHERE x.sequence_key = q.key AND x.look_at <= (SELECT clock_timestamp())
             ORDER BY x.look_at LIMIT 1) r
    WHERE q.paused_at IS NULL AND v.definition #> '{entry,admission}' IS NULL))::float8 AS asking
""")
# What only an operator settles: on `hold` streams, in quarantine, or no longer the same mail.
HELD = text("""
SELECT stream, count(*) AS n FROM (
    SELECT m.stream FROM message m
    WHERE m.watch_at = 'infinity' AND m.state = 'in_doubt' LIMIT :most) x
GROUP BY 1 ORDER BY 1
""")
# Others' rows are seen by a superuser and by members of pg_read_all_stats only.
OPEN = text("""
SELECT pid, coalesce(nullif(application_name, ''), usename, '?') AS application,
    coalesce(state, '?') AS state,
    extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
  AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - make_interval(secs => :older)
ORDER BY xact_start LIMIT 20
""")
TEMPLATES = text("""
SELECT n.template, min(n.who) AS who FROM (
    SELECT DISTINCT p.template #>> '{}' AS template, 'sequence ' || q.key AS who
    FROM sequence q
    JOIN sequence_version v ON v.sequence_key = q.key AND v.version = q.version,
    LATERAL jsonb_path_query(v.definition, '$.**.send.template') AS p (template)
    UNION ALL
    SELECT DISTINCT h.template, 'queued mails of stream ' || t.key
    FROM stream t, LATERAL (
        SELECT m.template, m.template_version FROM message m
        WHERE m.stream = t.key AND m.run_at IS NOT NULL
        ORDER BY m.run_at LIMIT :most) h
    WHERE h.template_version IS NULL) n
WHERE n.template IS NOT NULL AND NOT EXISTS (SELECT 1 FROM template t WHERE t.name = n.template)
GROUP BY 1 ORDER BY 1
""")
SEGMENTS_STAND = text("SELECT to_regclass('segment_present') IS NOT NULL")
SEGMENTS = text("""
SELECT g.key, g.fault, g.faults,
    extract(epoch FROM clock_timestamp() - g.due_at)::float8 AS overdue,
    extract(epoch FROM clock_timestamp() - g.evaluated_at)::float8 AS evaluated
FROM segment g ORDER BY 1
""")
TOUCHED = text("""
SELECT extract(epoch FROM clock_timestamp() - min(t.due_at))::float8 FROM segment_touch t
WHERE t.due_at <= (SELECT clock_timestamp())
""")
REFUSED_EVENTS = text("""
SELECT e.reason, count(*) AS n FROM (SELECT reason FROM event_refused LIMIT :most) e
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5
""")
SCHEDULES_STAND = text("SELECT to_regclass('schedule') IS NOT NULL")
SCHEDULES = text("""
SELECT s.key, s.fault, s.target ->> 'task' AS task, w.sequence, s.paused,
    w.sequence IS NULL OR EXISTS (SELECT 1 FROM sequence q WHERE q.key = w.sequence) AS published,
    extract(epoch FROM clock_timestamp() - s.next_fire_at)::float8 AS overdue
FROM schedule s, LATERAL (
    SELECT coalesce(s.target ->> 'sequence', s.target ->> 'into') AS sequence) w
ORDER BY 1
""")


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream: how long the oldest due mail has waited, and for how long and why it is paused."""

    key: str
    region: str | None
    pause_reason: str | None
    paused_for: float | None
    oldest_due: float | None


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction of this database that is open for `age` seconds."""

    pid: int
    application: str
    state: str
    age: float


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A named segment: `overdue` is negative before its time; `evaluated` None: never."""

    key: str
    fault: str | None
    faults: int
    overdue: float
    evaluated: float | None


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """A cron line: `published` tells whether its sequence is; `overdue` is negative before its time."""

    key: str
    fault: str | None
    task: str | None
    sequence: str | None
    paused: bool
    published: bool
    overdue: float | None


def bound(connection: Connection) -> None:
    """Let no look of this transaction take longer than 15 s."""
    connection.execute(BOUND)


def now(connection: Connection) -> float:
    """Postgres's clock, seconds since 1970."""
    return float(connection.execute(NOW).scalar_one())


def clocks(connection: Connection, most: float) -> dict[str, float]:
    """Worker → seconds that its clock was ahead of Postgres's in the last hour, if more than `most` off."""
    return {row.worker: row.ahead for row in connection.execute(CLOCKS, {"most": most})}


def pools(connection: Connection) -> dict[str, float]:
    """Queue (a pool, or `send@eu`) → seconds since one of its workers answered a canary."""
    return {row.pool: row.ago for row in connection.execute(POOLS)}


def ticks(connection: Connection) -> dict[str, float]:
    """Tick → seconds since its work was done."""
    return {row.name: row.ago for row in connection.execute(TICKS)}


def streams(connection: Connection) -> list[StreamState]:
    """Every stream."""
    return [StreamState(**row._mapping) for row in connection.execute(STREAMS)]


def paused_sequences(connection: Connection) -> list[Any]:
    """Rows (key, pause_reason, paused_for) of the sequences that are paused."""
    return list(connection.execute(SEQUENCES))


def to_plan(connection: Connection) -> float | None:
    """For how long the oldest due enrollment waits for the planner; None: none is due."""
    age: float | None = connection.execute(TO_PLAN).scalar_one()
    return age


def unheard(connection: Connection) -> tuple[float | None, float | None]:
    """For how long the oldest event has not been acted upon, and somebody's turn to come in is due."""
    row = connection.execute(UNHEARD).one()
    return row.news, row.asking


def held_doubts(connection: Connection) -> dict[str, int]:
    """Stream → how many doubts wait for an operator, counted up to `MOST` over all."""
    return {row.stream: row.n for row in connection.execute(HELD, {"most": MOST})}


def open_transactions(connection: Connection, older: float) -> list[OpenTransaction]:
    """Transactions open for more than `older` seconds, the oldest first; at most 20."""
    rows = connection.execute(OPEN, {"older": older})
    return [OpenTransaction(**row._mapping) for row in rows]


def missing_templates(connection: Connection) -> dict[str, str]:
    """Templates that published sequences or queued mails name and that are not there → who names it."""
    return {row.template: row.who for row in connection.execute(TEMPLATES, {"most": MOST})}


def segments(connection: Connection) -> tuple[list[SegmentState], float | None]:
    """Every named segment, and how long the first touch waits; none where the schema is older."""
    if not connection.execute(SEGMENTS_STAND).scalar_one():
        return [], None
    waits: float | None = connection.execute(TOUCHED).scalar_one()
    return [SegmentState(**row._mapping) for row in connection.execute(SEGMENTS)], waits


def refused_events(connection: Connection) -> dict[str, int]:
    """Why events of producers were refused → how many are kept, the five most frequent."""
    if not connection.execute(SEGMENTS_STAND).scalar_one():
        return {}
    rows = connection.execute(REFUSED_EVENTS, {"most": MOST})
    return {row.reason: row.n for row in rows}


def schedules(connection: Connection) -> list[ScheduleState]:
    """Every cron line; none where the schema is older than cron lines."""
    if not connection.execute(SCHEDULES_STAND).scalar_one():
        return []
    return [ScheduleState(**row._mapping) for row in connection.execute(SCHEDULES)]
