"""How a file of cron lines becomes the rows that fire: compared, then applied as a whole.

The rows are all there is: a scan reads them anew, so what is applied holds from then on, and no
process is started again.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, text

from schedules.cron import Crontab, Line
from schedules.expression import read
from schedules.findings import Finding
from schedules.fires import Fire, Judged, fires
from schedules.localtime import TZDATA_VERSION
from schedules.reading import suggest
from tasks import names
from tasks.membership import segment_keys
from tasks.sequence import cron
from tasks.sequence.publish import topic_keys

# Two who apply wait for each other; "cron" as a number, in the space of two-argument locks.
LOCK_SPACE = 0x63726F6E
LOCK = text("SELECT pg_advisory_xact_lock(:space, 0)")
NOW = text("SELECT clock_timestamp()")
SEQUENCES = text("SELECT key FROM sequence")

# Those that sequences hold themselves are in no file: `own_lines` keeps them.
STANDING = text("""
SELECT s.key, s.cron, s.zone, s.target, s.catch_up, s.max_lateness, s.paused, s.next_wall,
    s.next_fire_at, s.fault, clock_timestamp() AS now
FROM schedule s WHERE NOT s.target ? 'own' ORDER BY s.key
""")
HOLD = text("SELECT key FROM schedule WHERE NOT target ? 'own' ORDER BY key FOR UPDATE")
PUT = text("""
INSERT INTO schedule (key, cron, zone, target, catch_up, max_lateness, paused, next_wall,
    next_fire_at, tzdata)
VALUES (:key, :cron, :zone, CAST(:target AS jsonb), :catch_up, :max_lateness, :paused, :wall, :at,
    :tzdata)
ON CONFLICT (key) DO UPDATE SET cron = excluded.cron, zone = excluded.zone,
    target = excluded.target, catch_up = excluded.catch_up, max_lateness = excluded.max_lateness,
    paused = excluded.paused, next_wall = excluded.next_wall, next_fire_at = excluded.next_fire_at,
    tzdata = excluded.tzdata, fault = NULL, applied_at = clock_timestamp()
""")
REMOVE = text("DELETE FROM schedule WHERE key = :key")

# What was begun under a line that no longer says so stops; who came in already stays.
STOP = text("""
UPDATE schedule_fire SET state = 'missed', lease_until = NULL, retry_at = NULL,
    ended_at = clock_timestamp(), detail = detail || jsonb_build_object('reason', CAST(:reason AS text))
WHERE schedule_key = :key AND state = 'claimed'
""")


@dataclass(frozen=True, slots=True)
class Change:
    """What applying does to one line; `differs` names the keys that are new."""

    key: str
    change: Literal["added", "changed", "removed", "unchanged"]
    differs: tuple[str, ...] = ()
    next_fire_at: dt.datetime | None = None


def findings(connection: Connection, crontab: Crontab) -> list[Finding]:
    """What is wrong with a file that only the fleet knows: sequences, topics and tasks that are not there."""
    published = set(connection.execute(SEQUENCES).scalars())
    topics, segments = topic_keys(connection), segment_keys(connection)
    found = []
    for place, line in enumerate(crontab.lines):
        if (task := line.target.get("task")) is not None:
            why = _task_fault(task)
            where: tuple[str | int, ...] = ("schedules", place, "target", "task")
        else:
            key = str(line.sequence)
            near = (
                suggest(key, published) or "publish it first with `dripfleet sequence apply FILE`"
            )
            why = None if key in published else f"no sequence {key!r} is published; {near}"
            where = ("schedules", place, "target", "sequence")
            condition = line.target.get("segment")
            if why is None and (why := _segment_fault(condition, topics, segments)):
                where = ("schedules", place, "target", "segment")
        if why:
            found.append(crontab.located.finding(where, f"schedule {line.key!r}: {why}"))
    return found


def compare(connection: Connection, crontab: Crontab) -> list[Change]:
    """What `apply` would do now."""
    standing = {row.key: row for row in connection.execute(STANDING)}
    now = connection.execute(NOW).scalar_one()
    changes = [_change(line, standing.get(line.key), now) for line in crontab.lines]
    gone = sorted(set(standing) - {line.key for line in crontab.lines})
    return changes + [Change(key, "removed") for key in gone]


def apply(connection: Connection, crontab: Crontab) -> list[Change]:
    """Make the rows what the file says, in the caller's transaction.

    A new cron expression or zone, and the end of a pause, count from now. What was due before is on
    record as missed; what was claimed and not done stops if its line is gone, paused, or has
    another target.
    """
    connection.execute(LOCK, {"space": LOCK_SPACE})
    connection.execute(HOLD)
    changes = compare(connection, crontab)
    standing = {row.key: row for row in connection.execute(STANDING)}
    lines = {line.key: line for line in crontab.lines}
    for change in changes:
        row, line = standing.get(change.key), lines.get(change.key)
        if row is not None:
            _stop(connection, row, line, change)
        if line is None:
            connection.execute(REMOVE, {"key": change.key})
        elif change.change != "unchanged":
            _put(connection, line, row, change)
    return changes


def _task_fault(task: str) -> str | None:
    if task in names.SCHEDULED:
        return None
    expected = f"one of {', '.join(sorted(names.SCHEDULED))}" if names.SCHEDULED else "a sequence"
    return f"{task!r} is no task that a schedule may start: expected {expected}; correct it"


def _segment_fault(segment: str | None, topics: set[str], segments: set[str]) -> str | None:
    """Topics and segments of its condition that are not there; the rest was judged when it was read."""
    if lost := sorted(read(segment).needs.memberships - segments) if segment else []:
        move = suggest(lost[0], segments) or "apply it first with `dripfleet segment apply FILE`"
        return f"segment {lost[0]!r} does not exist; {move}"
    unknown = sorted(read(segment).needs.topics - topics) if segment else []
    if not unknown:
        return None
    return (
        f"topic {unknown[0]!r} does not exist; {suggest(unknown[0], topics) or 'correct the name'}"
    )


def _change(line: Line, row: Any, now: dt.datetime) -> Change:
    if row is None:
        then = None if line.paused else _next(line, now)
        return Change(line.key, "added", next_fire_at=then.at if then else None)
    keys = ("cron", "zone", "target", "catch_up", "max_lateness", "paused")
    differs = [key for key in keys if getattr(line, key) != getattr(row, key)]
    if row.fault is not None:
        differs.append("fault")
    at = row.next_fire_at
    if _anew(differs):
        then = None if line.paused else _next(line, now)
        at = then.at if then else None
    return Change(line.key, "changed" if differs else "unchanged", tuple(differs), at)


def _anew(differs: list[str] | tuple[str, ...]) -> bool:
    return not {"cron", "zone", "paused", "fault"}.isdisjoint(differs)


def _next(line: Line, now: dt.datetime) -> Fire | None:
    return next(fires(line.cron, line.zone, now), None)


def _stop(connection: Connection, row: Any, line: Line | None, change: Change) -> None:
    reason = "removed" if line is None else "paused" if line.paused else "changed"
    if (line is None or _anew(change.differs)) and row.next_wall is not None:
        due, _ = cron.overdue(row)
        missed = [Judged(fire, "missed", reason) for fire in due]
        if missed:
            cron.record(connection, row.key, row.target, missed)
    if line is None or line.paused or "target" in change.differs:
        connection.execute(STOP, {"key": row.key, "reason": reason})


def _put(connection: Connection, line: Line, row: Any, change: Change) -> None:
    then = None
    if row is not None and not _anew(change.differs) and row.next_wall is not None:
        then = Fire(row.next_wall, row.next_fire_at)
    elif not line.paused:
        then = _next(line, connection.execute(NOW).scalar_one())
    connection.execute(
        PUT,
        {
            "key": line.key,
            "cron": line.cron,
            "zone": line.zone,
            "target": json.dumps(line.target),
            "catch_up": line.catch_up,
            "max_lateness": line.max_lateness,
            "paused": line.paused,
            "wall": then.wall if then else None,
            "at": then.at if then else None,
            "tzdata": TZDATA_VERSION,
        },
    )
