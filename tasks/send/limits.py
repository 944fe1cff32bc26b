"""What operators allow a relay: read by every send worker every few seconds, written by the CLI.

Without a row in `relay_limit` nothing limits a relay but its URL, and nobody asks Redis anything.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from tasks.send.domains import EACH

READ_EVERY = 5.0
"""Seconds between two looks of a send worker at these."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """So many mails on the first day, twice as many after each `every`, until `until` a day."""

    first: int
    every: dt.timedelta
    until: int
    since: dt.date

    def cap(self, day: dt.date) -> int | None:
        """Mails of that day (of UTC); None once the warm-up is over."""
        passed = dt.timedelta(days=max(0, (day - self.since).days))
        # 2^40 is beyond every `until`, and a date far off must not become a huge number.
        allowed = self.first << min(passed // self.every, 40)
        return None if allowed >= self.until else allowed


@dataclass(frozen=True, slots=True)
class Limit:
    """A row of `relay_limit`: `domains` is a group, or `*` for each that has no row of its own.

    per_minute: ceiling of mails a minute; connections: mails under way at once, over all workers.
    """

    domains: str
    per_minute: float | None = None
    connections: int | None = None
    warm_up: WarmUp | None = None


@dataclass(frozen=True, slots=True)
class Allowed:
    """All that holds for one relay."""

    limits: Mapping[str, Limit] = field(default_factory=dict)
    paused: str | None = None

    def of(self, group: str) -> Limit | None:
        """What holds for a group; None: nothing does."""
        return self.limits.get(group) or self.limits.get(EACH)


NOTHING = Allowed()

LIMITS = text("""
SELECT relay, domains, per_minute, connections, warm_from, warm_every, warm_until, warm_since
FROM relay_limit ORDER BY relay, domains
""")
PAUSED = text("SELECT key, pause_reason FROM relay WHERE paused_at IS NOT NULL")

# One row a relay and group; what is not given stays as it was.
SET = text("""
INSERT INTO relay_limit AS l (relay, domains, per_minute, connections)
VALUES (:relay, :domains, :per_minute, :connections)
ON CONFLICT (relay, domains) DO UPDATE SET
    per_minute = coalesce(excluded.per_minute, l.per_minute),
    connections = coalesce(excluded.connections, l.connections), set_at = clock_timestamp()
""")
WARM = text("""
INSERT INTO relay_limit AS l (relay, domains, warm_from, warm_every, warm_until, warm_since)
VALUES (:relay, :domains, :first, :every, :until,
        (clock_timestamp() AT TIME ZONE 'UTC')::date)
ON CONFLICT (relay, domains) DO UPDATE SET
    warm_from = excluded.warm_from, warm_every = excluded.warm_every,
    warm_until = excluded.warm_until, warm_since = excluded.warm_since,
    set_at = clock_timestamp()
""")
COOL = text("""
UPDATE relay_limit SET warm_from = NULL, warm_every = NULL, warm_until = NULL, warm_since = NULL
WHERE relay = :relay AND domains = :domains AND warm_from IS NOT NULL
""")
CLEAR = text("DELETE FROM relay_limit WHERE relay = :relay AND domains = :domains")
PAUSE = text("""
INSERT INTO relay AS r (key, paused_at, pause_reason) VALUES (:relay, clock_timestamp(), :reason)
ON CONFLICT (key) DO UPDATE SET
    paused_at = excluded.paused_at, pause_reason = excluded.pause_reason
WHERE r.paused_at IS NULL
""")
RESUME = text("""
UPDATE relay SET paused_at = NULL, pause_reason = NULL
WHERE key = :relay AND paused_at IS NOT NULL
""")

# As many of `wanted` as the day has left, counted in the row before anybody sends them; a negative
# number gives back what was not used. Two workers wait for each other here, never for a mail.
TAKE = text("""
WITH today AS (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date AS day),
made AS (
    INSERT INTO relay_day (relay, domains, day)
    SELECT :relay, :domains, day FROM today
    ON CONFLICT (relay, domains, day) DO NOTHING)
SELECT day, clock_timestamp() AS now FROM today
""")
COUNT = text("""
UPDATE relay_day d SET taken = greatest(0, b.taken + b.n)
FROM (SELECT relay, domains, day, taken,
             CASE WHEN :wanted < 0 THEN :wanted
                  ELSE least(:wanted, greatest(0, :cap - taken)) END AS n
      FROM relay_day WHERE relay = :relay AND domains = :domains AND day = :day FOR UPDATE) b
WHERE d.relay = b.relay AND d.domains = b.domains AND d.day = b.day
RETURNING b.n
""")
TAKEN = text("""
SELECT relay, domains, taken FROM relay_day
WHERE day = (clock_timestamp() AT TIME ZONE 'UTC')::date
""")
FORGET = text("DELETE FROM relay_day WHERE relay = :relay AND day < CAST(:day AS date) - 400")


def load(connection: Connection) -> dict[str, Allowed]:
    """Relay → what holds for it; relays that nothing holds for are missing."""
    limits: dict[str, dict[str, Limit]] = {}
    for row in connection.execute(LIMITS):
        warm_up = None
        if row.warm_from is not None:
            warm_up = WarmUp(row.warm_from, row.warm_every, row.warm_until, row.warm_since)
        limits.setdefault(row.relay, {})[row.domains] = Limit(
            row.domains, row.per_minute, row.connections, warm_up
        )
    paused = {row.key: row.pause_reason for row in connection.execute(PAUSED)}
    return {
        relay: Allowed(limits.get(relay, {}), paused.get(relay)) for relay in {*limits, *paused}
    }


def set_limit(
    connection: Connection,
    relay: str,
    domains: str,
    *,
    per_minute: float | None = None,
    connections: int | None = None,
) -> None:
    """Limit a group; what is None stays as it was."""
    connection.execute(
        SET,
        {
            "relay": relay,
            "domains": domains,
            "per_minute": per_minute,
            "connections": connections,
        },
    )


def clear_limit(connection: Connection, relay: str, domains: str) -> bool:
    """Take every limit and the warm-up off a group; False: there was none."""
    return connection.execute(CLEAR, {"relay": relay, "domains": domains}).rowcount > 0


def warm_up(
    connection: Connection, relay: str, domains: str, first: int, every: dt.timedelta, until: int
) -> None:
    """Begin a warm-up today."""
    connection.execute(
        WARM,
        {"relay": relay, "domains": domains, "first": first, "every": every, "until": until},
    )


def end_warm_up(connection: Connection, relay: str, domains: str) -> bool:
    """End a warm-up, whatever it had come to; False: there was none."""
    return connection.execute(COOL, {"relay": relay, "domains": domains}).rowcount > 0


def pause(connection: Connection, relay: str, reason: str) -> bool:
    """Send nothing through a relay; False: it was paused already."""
    return connection.execute(PAUSE, {"relay": relay, "reason": reason}).rowcount > 0


def resume(connection: Connection, relay: str) -> bool:
    """Let a relay go on; False: it was not paused."""
    return connection.execute(RESUME, {"relay": relay}).rowcount > 0


def taken_today(connection: Connection) -> dict[tuple[str, str], int]:
    """Mails let go today by warm-ups, by relay and group."""
    return {(row.relay, row.domains): row.taken for row in connection.execute(TAKEN)}


@dataclass(frozen=True, slots=True)
class Share:
    """What a warm-up's day gave: mails, and the seconds until tomorrow where it has no more."""

    granted: int
    wait: float


def take_of_day(connection: Connection, relay: str, limit: Limit, wanted: int) -> Share:
    """Count `wanted` mails of today, as far as the warm-up lets; a negative number gives back.

    Args:
        connection: inside a transaction of its own: its row is what all workers wait for.
        relay: whose.
        limit: with a warm-up.
        wanted: mails.
    """
    assert limit.warm_up is not None
    row = connection.execute(TAKE, {"relay": relay, "domains": limit.domains}).one()
    cap = limit.warm_up.cap(row.day)
    if wanted > 0 and cap is None:
        return Share(wanted, 0.0)
    n = connection.execute(
        COUNT,
        {
            "relay": relay,
            "domains": limit.domains,
            "day": row.day,
            "wanted": wanted,
            "cap": cap or 0,
        },
    ).scalar_one_or_none()
    granted = int(n or 0)
    if granted == wanted:
        return Share(granted, 0.0)
    connection.execute(FORGET, {"relay": relay, "day": row.day})
    midnight = dt.datetime.combine(row.day, dt.time(), dt.UTC) + dt.timedelta(days=1)
    return Share(granted, max(1.0, (midnight - row.now).total_seconds()))
