"""Which cron lines fire now: each instant once over the fleet, those that were missed on record.

A fire is claimed and its line moved on in one transaction, under the line's lock; the primary key
(line, instant) holds whatever else happens. `tasks.sequence.fire` then does what was claimed::

    scan: look()            schedule.next_fire_at is due → a row of schedule_fire, and the next time
    sequence.fire: work()   schedule_fire: claimed → done | missed | failed
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, text

from models.session import Database
from schedules.fires import Fire, Judged, fires, judge
from schedules.localtime import TZDATA_VERSION, resolve

CHUNK = 1000  # fires of one line a transaction: after a year of downtime too, locks are short
LINES = 100
PASSES = 20  # the next scan goes on

log = structlog.get_logger()

# A newer tzdata resolves every wall time again; an older worker leaves that to the newer one.
DUE = text("""
SELECT s.key, s.cron, s.zone, s.target, s.catch_up, s.max_lateness, s.next_wall, s.next_fire_at,
    s.tzdata COLLATE "C" < :tzdata AS outdated, clock_timestamp() AS now
FROM schedule s
WHERE s.next_wall IS NOT NULL
  AND (s.next_fire_at <= (SELECT clock_timestamp()) OR s.tzdata COLLATE "C" < :tzdata)
ORDER BY s.next_fire_at LIMIT :n FOR UPDATE SKIP LOCKED
""")
RECORD = text("""
INSERT INTO schedule_fire (schedule_key, fire_at, state, target, detail, ended_at)
SELECT :key, f.fire_at, f.state, CAST(:target AS jsonb),
    jsonb_strip_nulls(jsonb_build_object('reason', f.reason)),
    CASE WHEN f.state = 'missed' THEN clock_timestamp() END
FROM unnest(CAST(:instants AS timestamptz[]), CAST(:states AS text[]), CAST(:reasons AS text[]))
     AS f (fire_at, state, reason)
ON CONFLICT (schedule_key, fire_at) DO NOTHING
RETURNING state, detail ->> 'reason' AS reason
""")
MOVE_ON = text("""
UPDATE schedule SET next_wall = :wall, next_fire_at = :at, tzdata = :tzdata, fault = :fault
WHERE key = :key
""")

# A fire that waits rings no doorbell while another one is worked on: one thread of the pool is
# enough for them, and the planner keeps the others.
WAITING = text("""
SELECT coalesce(bool_or(f.lease_until IS NULL OR f.lease_until <= clock_timestamp()), false)
    AND NOT coalesce(bool_or(f.lease_until > clock_timestamp()), false)
FROM schedule_fire f
WHERE f.state = 'claimed' AND (f.retry_at IS NULL OR f.retry_at <= clock_timestamp())
""")


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look found: fires claimed and missed just now, and whether one waits for work."""

    claimed: int
    missed: int
    waiting: bool


def look(database: Database) -> Looked:
    """Claim every fire that is due, record those that were missed, and move their lines on."""
    claimed = missed = 0
    for last in (*[False] * (PASSES - 1), True):
        with database.transaction() as connection:
            rows = connection.execute(DUE, {"tzdata": TZDATA_VERSION, "n": LINES}).all()
            for row in rows:
                made = _fire(connection, row)
                claimed += made.count("claimed")
                missed += made.count("missed")
            if not rows or last:
                waiting = bool(connection.execute(WAITING).scalar_one())
                break
    return Looked(claimed, missed, waiting)


def record(
    connection: Connection, key: str, target: dict[str, Any], judged: Sequence[Judged]
) -> list[str]:
    """Write fires as they were judged; returns the states of those that are new."""
    rows = connection.execute(
        RECORD,
        {
            "key": key,
            "target": json.dumps(target),
            "instants": [each.fire.at for each in judged],
            "states": [each.state for each in judged],
            "reasons": [each.reason for each in judged],
        },
    ).all()
    told: dict[str | None, int] = {}
    for row in rows:
        told[row.reason] = told.get(row.reason, 0) + 1
    for reason, count in told.items():
        if reason is None:
            log.info("schedule_fired", schedule=key, fire_at=judged[-1].fire.at.isoformat())
        else:
            log.warning("schedule_missed", schedule=key, reason=reason, fires=count)
    return [row.state for row in rows]


def overdue(row: Any) -> tuple[list[Fire], Fire | None]:
    """The fires of a stored line that are due, up to 1 000, and the one after them.

    Args:
        row: with cron, zone, next_wall, next_fire_at and now.

    Raises:
        ValueError: the line makes no sense to this release.
    """
    first = Fire(row.next_wall, row.next_fire_at)
    if first.at > row.now:
        return [], first
    due = [first]
    for fire in fires(row.cron, row.zone, first.at):
        if fire.at > row.now or len(due) == CHUNK:
            return due, fire
        due.append(fire)
    return due, None


def _fire(connection: Connection, row: Any) -> list[str]:
    try:
        if row.outdated:
            at = resolve(row.next_wall, row.zone)
            _move_on(connection, row.key, Fire(row.next_wall, at))
            return []
        due, then = overdue(row)
        more = then is not None and then.at <= row.now
        judged = judge(due, row.now, row.catch_up, row.max_lateness, more=more)
    except (ValueError, ArithmeticError) as fault:
        # One line that makes no sense must not stop the others; applying it again mends it.
        log.error("schedule_faulty", schedule=row.key, why=str(fault))
        _move_on(connection, row.key, None, fault=str(fault))
        return []
    _move_on(connection, row.key, then)
    return record(connection, row.key, row.target, judged)


def _move_on(connection: Connection, key: str, to: Fire | None, fault: str | None = None) -> None:
    values = {"key": key, "tzdata": TZDATA_VERSION, "fault": fault}
    values |= {"wall": to.wall, "at": to.at} if to else {"wall": None, "at": None}  # type: ignore[dict-item]
    connection.execute(MOVE_ON, values)
