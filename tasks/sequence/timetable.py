"""What the cron lines that stand did, and when they fire next."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import chain, islice
from typing import Any

from sqlalchemy import Connection, text

from schedules.fires import Fire, fires
from tasks.errors import Permanent

LISTED = text("""
SELECT s.key, s.cron, s.zone, s.target, s.catch_up, s.max_lateness, s.paused, s.next_fire_at,
    l.fire_at AS last_fire_at, l.state AS last_state,
    CASE l.state
        WHEN 'claimed' THEN coalesce('waits for ' || (l.detail ->> 'waits_for'), l.detail ->> 'fault')
        ELSE coalesce(l.detail ->> 'why', l.detail ->> 'reason') END AS last_detail,
    coalesce(t.entered, 0) AS entered, coalesce(t.missed, 0) AS missed, s.fault
FROM schedule s
LEFT JOIN LATERAL (
    SELECT f.fire_at, f.state, f.detail FROM schedule_fire f
    WHERE f.schedule_key = s.key ORDER BY f.fire_at DESC LIMIT 1) l ON true
LEFT JOIN LATERAL (
    SELECT sum((f.detail ->> 'enrolled')::bigint)::bigint AS entered,
        count(*) FILTER (WHERE f.state = 'missed') AS missed
    FROM schedule_fire f WHERE f.schedule_key = s.key) t ON true
ORDER BY s.key
""")
AHEAD = text("""
SELECT s.key, s.cron, s.zone, s.target, s.next_wall, s.next_fire_at FROM schedule s
WHERE CAST(:key AS text) IS NULL OR s.key = :key
""")


@dataclass(frozen=True, slots=True)
class Listed:
    """A line, what it did and will do.

    Attributes:
        does: its target in words.
        last_detail: why the last fire was missed, failed, or waits.
        entered: people who came in by all of its fires; each enters a sequence once.
        missed: fires that did not run, or not to their end.
        fault: why it does not fire any more.
    """

    key: str
    cron: str
    zone: str
    does: str
    catch_up: str
    max_lateness: dt.timedelta
    paused: bool
    next_fire_at: dt.datetime | None
    last_fire_at: dt.datetime | None
    last_state: str | None
    last_detail: str | None
    entered: int
    missed: int
    fault: str | None


@dataclass(frozen=True, slots=True)
class Coming:
    """A fire to come, its instant and the local time that the line says."""

    fire_at: dt.datetime
    key: str
    wall: dt.datetime
    zone: str
    does: str


def listed(connection: Connection) -> list[Listed]:
    """Every line, by key."""
    rows = [row._asdict() for row in connection.execute(LISTED)]
    return [Listed(does=in_words(row.pop("target")), **row) for row in rows]


def coming(connection: Connection, n: int, key: str | None = None) -> list[Coming]:
    """The next `n` fires of all lines, or of one, in order; a paused line has none.

    Raises:
        Permanent: there is no such line.
    """
    rows = connection.execute(AHEAD, {"key": key}).all()
    if key is not None and not rows:
        raise Permanent(
            f"there is no schedule {key!r}; `dripfleet schedules list` names those there are"
        )
    ahead = merge(*(_ahead(row) for row in rows), key=lambda each: (each.fire_at, each.key))
    return list(islice(ahead, n))


def in_words(target: dict[str, Any]) -> str:
    """What a line starts, as a person would say it."""
    if "task" in target:
        return f"start {target['task']}"
    if "segment" in target:
        return f"enroll those with {target['segment']} into {target['into']}"
    who = "everybody" if target["audience"] == "all" else target["audience"]
    return f"enroll {who} into {target['sequence']}"


def _ahead(row: Any) -> Iterator[Coming]:
    if row.next_wall is None:
        return
    first = Fire(row.next_wall, row.next_fire_at)
    for fire in chain([first], fires(row.cron, row.zone, first.at)):
        yield Coming(fire.at, row.key, fire.wall, row.zone, in_words(row.target))
