"""A sequence that takes nobody new: who is in it goes on to the end, and whoever asks is refused.

That is the last rule of `verdict.judge`, so each refusal has its row, and counts those alone whom all
other rules would let in. While it holds people are judged whichever way they come, also where the
`entry` has no rules of its own; who waited for a place, or for a time, is refused at once.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from tasks.sequence.outlook import stamp

MOST: Final = 1_000_000
"""Where counting of people stops."""

DRAIN = text("""
UPDATE sequence SET draining_since = clock_timestamp(), drain_reason = :reason
WHERE key = :key AND draining_since IS NULL
""")
UNDO = text("""
UPDATE sequence SET draining_since = NULL, drain_reason = NULL
WHERE key = :key AND draining_since IS NOT NULL
""")
STANDING = text("""
SELECT q.key, q.draining_since AS since, q.drain_reason AS reason, (
    SELECT count(*) FROM (
        SELECT 1 FROM enrollment e WHERE e.sequence_key = q.key AND e.active LIMIT :most) x) AS active, (
    SELECT count(*) FROM (
        SELECT 1 FROM entry_request r WHERE r.sequence_key = q.key LIMIT :most) x) AS asking,
    clock_timestamp() - q.draining_since AS length
FROM sequence q
WHERE q.draining_since IS NOT NULL AND (CAST(:key AS text) IS NULL OR q.key = :key) ORDER BY q.key
""")


@dataclass(frozen=True, slots=True)
class Draining:
    """A sequence that takes nobody new; `active` go on, `asking` are refused at the next look."""

    key: str
    since: dt.datetime
    reason: str
    active: int
    asking: int
    length: dt.timedelta

    def __str__(self) -> str:
        return f"takes nobody new since {stamp(self.since)} ({self.reason})"


def drain(connection: Connection, key: str, reason: str) -> bool:
    """Let nobody new into a sequence; False: it was so already, and its reason stays."""
    return connection.execute(DRAIN, {"key": key, "reason": reason}).rowcount > 0


def undo(connection: Connection, key: str) -> bool:
    """Let people in again, from now on; False: they came in all the while."""
    return connection.execute(UNDO, {"key": key}).rowcount > 0


def draining(connection: Connection, key: str | None = None) -> list[Draining]:
    """The sequences that take nobody new; of one alone, by its key."""
    rows = connection.execute(STANDING, {"key": key, "most": MOST})
    return [Draining(**row._mapping) for row in rows]
