"""Relays: which are paused, and whom a limit, a warm-up or their own provider keeps waiting."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from tasks.moves import put_off
from tasks.send import limits
from workers.doctor.finding import Finding, fine, warning

MOST = 50_000
NOW = text("""
SELECT clock_timestamp() AS now, (clock_timestamp() AT TIME ZONE 'UTC')::date AS day
""")

# Of the mails that wait for a time of their own, those that a pace has put off; counted up to a
# bound, for a backlog may be as large as it likes.
WAITING = text("""
SELECT stream, reason, count(*) AS n FROM (
    SELECT stream, reason FROM message
    WHERE run_at > (SELECT clock_timestamp()) AND run_at < 'infinity' AND reason = ANY(:reasons)
    LIMIT :most) q
GROUP BY stream, reason ORDER BY stream, reason
""")


def relays(connection: Connection) -> Iterator[Finding]:
    """What keeps mails from relays, and the next move; nothing where nobody limits anything."""
    allowed = limits.load(connection)
    today = connection.execute(NOW).one()
    taken = limits.taken_today(connection)
    for relay, holds in allowed.items():
        if holds.paused is not None:
            yield warning(
                f"relay {relay}",
                f"paused: {holds.paused}",
                f"when that is mended: `dripfleet relay resume {relay}`",
            )
        for limit in holds.limits.values():
            cap = None if limit.warm_up is None else limit.warm_up.cap(today.day)
            if cap is not None:
                n = taken.get((relay, limit.domains), 0)
                yield fine(f"relay {relay}", f"warms up {limit.domains}: {n} of {cap} today")
    rows = connection.execute(WAITING, {"reasons": list(put_off.REASONS), "most": MOST}).all()
    for row in rows:
        number = f"{row.n} or more" if row.n >= MOST else str(row.n)
        why, _, move = put_off.WORDS[row.reason].partition("; ")
        mails = "mail waits" if row.n == 1 else "mails wait"
        yield warning(f"stream {row.stream}", f"{number} {mails}: {why}", move)
    if any(holds.limits for holds in allowed.values()) and not rows:
        yield fine("relays", "nobody waits for a limit of a relay")
