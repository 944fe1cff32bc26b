"""Who joined a segment: read behind a cursor, each edge once, whoever else reads them.

The cursor of a sequence is set where the segment stands when a version that waits for it is
published (a trigger on `sequence_version`): who was in it before does not join it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from tasks.membership import edges_since
from tasks.sequence import room

LIMIT: Final = 1000


# The row is the cursor, and held while it is moved: two who read at once read one after the other.
LISTENING = text("""
SELECT s.sequence_key, s.segment, s.after_id FROM entry_state s
WHERE s.segment IS NOT NULL AND EXISTS (
    SELECT 1 FROM sequence_watch w
    JOIN sequence q ON q.key = w.sequence_key AND q.version = w.version
    WHERE w.kind = 'segment' AND w.sequence_key = s.sequence_key AND w.name = s.segment)
ORDER BY s.sequence_key
""")
HOLD = text(
    "SELECT after_id FROM entry_state WHERE sequence_key = :key AND segment = :segment FOR UPDATE"
)
MOVE = text("UPDATE entry_state SET after_id = :after WHERE sequence_key = :key")


def waiting(connection: Connection) -> bool:
    """Whether somebody joined or left a segment that a sequence listens to."""
    rows = connection.execute(LISTENING).all()
    return any(edges_since(connection, row.segment, row.after_id, 1) for row in rows)


def read(connection: Connection, most: int = LIMIT) -> int:
    """Turn joins into requests, and move each cursor in the same transaction; returns edges read.

    Whom a changed definition brought in did nothing: they are refused, with that as the reason.
    """
    read_ = 0
    for row in connection.execute(LISTENING).all():
        key, segment = row.sequence_key, row.segment
        after = connection.execute(HOLD, {"key": key, "segment": segment}).scalar_one_or_none()
        edges = [] if after is None else edges_since(connection, segment, after, most)
        if not edges:
            continue
        joins = [edge for edge in edges if edge.edge == "join"]
        room.ask(
            connection,
            "segment",
            [(key, e.subscriber_id, None, None) for e in joins if e.cause != "definition"],
        )
        room.refuse(
            connection,
            [
                room.Refusal(e.subscriber_id, key, "definition", {"segment": segment})
                for e in joins
                if e.cause == "definition"
            ],
        )
        connection.execute(MOVE, {"key": key, "after": max(edge.id for edge in edges)})
        read_ += len(edges)
    return read_
