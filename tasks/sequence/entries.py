"""How the door of a sequence stands: who waits and for what, who did not come in and why."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from schedules.entry import Entry, EventTrigger, ScheduleTrigger, SegmentTrigger, entry_from_json
from tasks.errors import Permanent
from tasks.sequence.outlook import stamp
from tasks.sequence.verdict import waits_for, why_not

ENTRY = text("""
SELECT v.definition -> 'entry' AS entry, q.paused_at IS NOT NULL AS paused, q.draining_since,
    q.drain_reason FROM sequence q
JOIN sequence_version v ON v.sequence_key = q.key AND v.version = q.version WHERE q.key = :key
""")
WAITING = text("""
SELECT coalesce(r.why, 'turn') AS why, count(*) AS n, min(r.asked_at) AS since
FROM entry_request r WHERE r.sequence_key = :key GROUP BY 1 ORDER BY 1
""")
REFUSED = text("""
SELECT reason, sum(n)::bigint AS n, count(*) AS people, max(last_at) AS last_at
FROM entry_refusal WHERE sequence_key = :key GROUP BY 1 ORDER BY 2 DESC, 1
""")
ACTIVE = text("SELECT count(*) FROM enrollment WHERE sequence_key = :key AND active")

# Of one person; the place in the queue is counted up to where it says nothing more.
ASKS = text("""
SELECT r.sequence_key, r.cause, r.asked_at, r.look_at, r.why, q.paused_at IS NOT NULL AS paused,
    q.draining_since IS NOT NULL AS draining,
    v.definition -> 'entry' AS entry, (
        SELECT count(*) FROM (
            SELECT 1 FROM entry_request o WHERE o.sequence_key = r.sequence_key AND r.why IS NULL
              AND (o.look_at, o.id) < (r.look_at, r.id) LIMIT 10000) x) AS before
FROM entry_request r
JOIN sequence q ON q.key = r.sequence_key
JOIN sequence_version v ON v.sequence_key = q.key AND v.version = q.version
WHERE r.subscriber_id = :id AND (CAST(:key AS text) IS NULL OR r.sequence_key = :key) ORDER BY r.id
""")
CONVERSIONS = text("""
SELECT c.sequence_key, c.occurred_at, c.value, x.name FROM conversion c
LEFT JOIN event x ON x.id = c.event_id AND x.occurred_at = c.occurred_at
WHERE c.subscriber_id = :id AND (CAST(:key AS text) IS NULL OR c.sequence_key = :key)
""")
REFUSALS = text("""
SELECT sequence_key, reason, n, first_at, last_at, detail FROM entry_refusal
WHERE subscriber_id = :id AND (CAST(:key AS text) IS NULL OR sequence_key = :key) ORDER BY last_at
""")


@dataclass(frozen=True, slots=True)
class Door:
    """How people come into a sequence.

    Attributes:
        by: in words, what lets them in.
        admission: in words, how many at a time and how fast; None: as they come.
        active: enrollments under way.
        waiting: what requests wait for (`turn`: only that) → how many, the oldest since `since`.
        refused: reason → how often somebody did not come in for it.
        draining_since: nobody new comes in since then, for `drain_reason`.
    """

    key: str
    by: str
    admission: str | None
    paused: bool
    active: int
    waiting: dict[str, int] = field(default_factory=dict)
    since: dt.datetime | None = None
    refused: dict[str, int] = field(default_factory=dict)
    draining_since: dt.datetime | None = None
    drain_reason: str | None = None


def door(connection: Connection, key: str) -> Door:
    """How the door of a sequence stands; use it in `Database.snapshot()`.

    Raises:
        Permanent: there is no such sequence.
    """
    row = connection.execute(ENTRY, {"key": key}).one_or_none()
    if row is None:
        raise Permanent(
            f"no sequence {key!r} is published; `dripfleet sequence list` names those there are"
        )
    entry = entry_from_json(row.entry)
    waiting = connection.execute(WAITING, {"key": key}).all()
    return Door(
        key,
        in_words(entry),
        _admission(entry),
        row.paused,
        int(connection.execute(ACTIVE, {"key": key}).scalar_one()),
        {each.why: each.n for each in waiting},
        min((each.since for each in waiting), default=None),
        {each.reason: each.n for each in connection.execute(REFUSED, {"key": key})},
        row.draining_since,
        row.drain_reason,
    )


def in_words(entry: Entry) -> str:
    """What lets people in, as a person would say it."""
    match entry.trigger:
        case EventTrigger(event=event, where=where):
            by = f"event {event}" + (f" where {where.source}" if where else "")
        case SegmentTrigger(segment=segment):
            by = f"joining the segment {segment}"
        case ScheduleTrigger(cron=cron, zone=zone, audience=audience):
            who = audience.source if audience else "everybody"
            by = f"cron {cron} in {zone}: {who}"
        case None:
            return "by hand"
    return f"{by}; by hand too" if entry.manual else by


def refused_lines(connection: Connection, values: dict[str, Any]) -> list[tuple[Any, str, str]]:
    """When, which sequence, and why somebody did not come in, in plain words."""
    found = []
    for row in connection.execute(REFUSALS, values):
        often = f" ({row.n} times since {stamp(row.first_at)})" if row.n > 1 else ""
        said = f"did not come in: {why_not(row.reason, row.detail)}{often}"
        found.append((row.last_at, row.sequence_key, said))
    return found


def converted_lines(connection: Connection, values: dict[str, Any]) -> list[tuple[Any, str, str]]:
    """When, in which sequence, and by what somebody reached its goal."""
    found = []
    for row in connection.execute(CONVERSIONS, values):
        worth = "" if row.value is None else f", worth {row.value.normalize():f}"
        found.append(
            (row.occurred_at, row.sequence_key, f"converted: {row.name or 'an event'}{worth}")
        )
    return found


def asking_lines(connection: Connection, values: dict[str, Any]) -> list[tuple[str, str]]:
    """Which sequence somebody waits to come into, and for what, in plain words."""
    found = []
    for row in connection.execute(ASKS, values):
        said = f"asks to come in since {stamp(row.asked_at)} ({row.cause})"
        if row.paused:
            said += "; waits, since the sequence is paused"
        elif row.draining:
            said += "; is refused at the next look, since the sequence takes nobody new"
        elif row.why is not None:
            said += f"; waits {waits_for(row.why, stamp(row.look_at))}"
        elif (limit := _admission(entry_from_json(row.entry))) is not None:
            many = f"{row.before}" if row.before < 10_000 else "10 000 or more"
            said += f"; waits its turn behind {many} others: {limit}"
        else:
            said += "; it is judged at the next look"
        found.append((row.sequence_key, said))
    return found


def _admission(entry: Entry) -> str | None:
    limits = entry.admission
    if limits is None:
        return None
    said = []
    if limits.max_active is not None:
        said.append(f"at most {limits.max_active} at a time")
    if limits.rate is not None:
        said.append(f"{limits.rate}, evenly")
    return ", ".join(said)
