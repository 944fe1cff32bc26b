"""The cron line that a sequence holds itself: a row beside those of the file, kept as it says.

What the line does from its fire on is what any other line does: R4 has one home. A new version of a
sequence is seen by the next scan, and counts fires from when it was published.
"""

from __future__ import annotations

import json
from typing import Any, Final

import structlog
from sqlalchemy import Connection, text

from models.session import Database
from schedules.cron import MAX_LATENESS
from schedules.definition import Sequence
from schedules.entry import ScheduleTrigger
from schedules.fires import ON_TIME, Fire, fires
from schedules.localtime import TZDATA_VERSION

log = structlog.get_logger()

PREFIX: Final = "sequence:"
"""Before the key of the sequence; no key of a file holds a colon."""

STALE = text("""
SELECT q.key, q.version, v.created_at, v.definition, s.cron, s.zone, s.next_wall, s.next_fire_at
FROM sequence_watch w
JOIN sequence q ON q.key = w.sequence_key AND q.version = w.version
JOIN sequence_version v ON v.sequence_key = q.key AND v.version = q.version
LEFT JOIN schedule s ON s.key = :prefix || q.key
WHERE w.kind = 'schedule' AND (s.key IS NULL OR CAST(s.target ->> 'own' AS integer) <> q.version)
""")
PUT = text("""
INSERT INTO schedule AS s (key, cron, zone, target, catch_up, max_lateness, next_wall, next_fire_at,
    tzdata)
VALUES (:key, :cron, :zone, CAST(:target AS jsonb), :catch_up, :max_lateness, :wall, :at, :tzdata)
ON CONFLICT (key) DO UPDATE SET cron = excluded.cron, zone = excluded.zone,
    target = excluded.target, catch_up = excluded.catch_up, max_lateness = excluded.max_lateness,
    next_wall = excluded.next_wall, next_fire_at = excluded.next_fire_at,
    tzdata = excluded.tzdata, fault = NULL, applied_at = clock_timestamp()
WHERE CAST(s.target ->> 'own' AS integer) < CAST(excluded.target ->> 'own' AS integer)
""")
GONE = text("""
DELETE FROM schedule s WHERE s.target ? 'own' AND NOT EXISTS (
    SELECT 1 FROM sequence q
    JOIN sequence_watch w ON w.kind = 'schedule' AND w.sequence_key = q.key AND w.version = q.version
    WHERE s.key = :prefix || q.key)
RETURNING s.key
""")


def sync(database: Database) -> int:
    """Make the lines what the current versions say; returns how many are new or changed."""
    with database.transaction() as connection:
        for key in connection.execute(GONE, {"prefix": PREFIX}).scalars():
            log.info("schedule_removed", schedule=key)
        rows = connection.execute(STALE, {"prefix": PREFIX}).all()
        return sum(_put(connection, row) for row in rows)


def _put(connection: Connection, row: Any) -> int:
    try:
        sequence = Sequence.from_json(row.definition)
    except ValueError as fault:
        log.error("schedule_faulty", schedule=PREFIX + row.key, why=str(fault))
        return 0
    trigger = sequence.entry.trigger
    if not isinstance(trigger, ScheduleTrigger):
        return 0
    if (row.cron, row.zone) == (trigger.cron, trigger.zone) and row.next_wall is not None:
        then: Fire | None = Fire(row.next_wall, row.next_fire_at)
    else:
        then = next(fires(trigger.cron, trigger.zone, row.created_at), None)
    lateness = sequence.catch_up.max_lateness or MAX_LATENESS
    connection.execute(
        PUT,
        {
            "key": PREFIX + row.key,
            "cron": trigger.cron,
            "zone": trigger.zone,
            "target": json.dumps(_target(row.key, row.version, trigger)),
            "catch_up": sequence.catch_up.fires,
            "max_lateness": max(lateness, ON_TIME),
            "wall": then.wall if then else None,
            "at": then.at if then else None,
            "tzdata": TZDATA_VERSION,
        },
    )
    log.info("schedule_kept", schedule=PREFIX + row.key, version=row.version)
    return 1


def _target(key: str, version: int, trigger: ScheduleTrigger) -> dict[str, Any]:
    if trigger.audience is None:
        return {"sequence": key, "audience": "all", "own": version}
    return {"into": key, "segment": trigger.audience.source, "own": version}
