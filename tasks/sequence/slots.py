"""The slots of throttled sequences: a row each, held by the planner that hands them out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from sqlalchemy import Connection, text

from schedules.definition import Sequence
from tasks.sequence.limited import slot_after
from tasks.sequence.planned import Plan, Position

# In the order of keys, so that two planners wait for each other one way round; nobody who waits here
# has written anything yet.
HOLD = text("""
WITH made AS (
    INSERT INTO sequence_slot (sequence_key) SELECT unnest(CAST(:keys AS text[]))
    ON CONFLICT (sequence_key) DO NOTHING)
SELECT sequence_key, next_at FROM sequence_slot WHERE sequence_key = ANY(:keys)
ORDER BY sequence_key FOR UPDATE
""")
WRITE = text("""
UPDATE sequence_slot s SET next_at = w.next_at
FROM unnest(CAST(:keys AS text[]), CAST(:ats AS timestamptz[])) AS w (key, next_at)
WHERE s.sequence_key = w.key
""")


class Slots:
    """When the next mail of each throttled sequence of a batch may go.

    Args:
        connection: of the planner's transaction, to whose end the rows are held.
        sequences: of the batch; without a throttled one nothing is asked.
    """

    def __init__(self, connection: Connection, sequences: Iterable[Sequence]) -> None:
        self._connection = connection
        self._next: dict[str, dt.datetime | None] = {}
        self._taken: set[str] = set()
        keys = sorted({each.key for each in sequences if each.limits.throttle is not None})
        if keys:
            rows = connection.execute(HOLD, {"keys": keys})
            self._next = dict.fromkeys(keys) | {row.sequence_key: row.next_at for row in rows}

    def of(self, key: str) -> dt.datetime | None:
        """The next slot of a sequence; None: any time is one."""
        return self._next.get(key)

    def take(self, sequence: Sequence, position: Position, plan: Plan, now: dt.datetime) -> None:
        """Take the slot, if this plan does."""
        if sequence.key in self._next:
            after = slot_after(sequence, self._next[sequence.key], position, plan, now)
            if after != self._next[sequence.key]:
                self._next[sequence.key] = after
                self._taken.add(sequence.key)

    def write(self) -> None:
        """Write what was taken; in the transaction of the plans."""
        if self._taken:
            keys = sorted(self._taken)
            ats = [self._next[key] for key in keys]
            self._connection.execute(WRITE, {"keys": keys, "ats": ats})
