"""Who joined a segment since it was last asked: where a sequence that waits for them gets it from.

The source is given by whoever evaluates segments: `source = …` once, at import of the entry point.
Until then the loader refuses a trigger of a segment (`schedules.door.SEGMENT_TRIGGERS`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, text

from tasks.sequence import room

LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Joined:
    """Somebody joined a segment; `id` grows in the order of commits."""

    id: int
    subscriber_id: int
    at: dt.datetime


class EdgesSince(Protocol):
    """Edges of a segment behind an id, joins alone, in the order of ids, at most `limit`."""

    def __call__(
        self, connection: Connection, segment: str, after_id: int, limit: int
    ) -> Sequence[Joined]:
        """Return them."""


source: EdgesSince | None = None
"""Who tells; None: nobody does yet."""

LISTENING = text("""
SELECT w.sequence_key, w.name AS segment FROM sequence_watch w
JOIN sequence q ON q.key = w.sequence_key AND q.version = w.version
WHERE w.kind = 'segment' ORDER BY 1
""")

# The row is the cursor, locked while it is moved. Of another segment it begins at its end.
CURSOR = text("""
INSERT INTO entry_state AS s (sequence_key, segment, after_id) VALUES (:key, :segment, 0)
ON CONFLICT (sequence_key) DO UPDATE SET segment = :segment,
    after_id = CASE WHEN s.segment = :segment THEN s.after_id ELSE 0 END
RETURNING after_id
""")
MOVE = text("UPDATE entry_state SET after_id = :after WHERE sequence_key = :key")


def read(connection: Connection, most: int = LIMIT) -> int:
    """Turn edges into requests, and move each cursor in the same transaction; returns how many."""
    if source is None:
        return 0
    asked = 0
    for row in connection.execute(LISTENING).all():
        after = connection.execute(
            CURSOR, {"key": row.sequence_key, "segment": row.segment}
        ).scalar_one()
        found = source(connection, row.segment, after, most)
        if not found:
            continue
        asking = [(row.sequence_key, each.subscriber_id, None, None) for each in found]
        asked += len(room.ask(connection, "segment", asking))
        connection.execute(MOVE, {"key": row.sequence_key, "after": max(e.id for e in found)})
    return asked
