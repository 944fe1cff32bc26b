"""Who is in a named segment, for whoever acts on it: which there are, and every join and leave.

The edges of one segment are written under the lock of its row, held until the commit. So they
become visible in the order of their ids: a reader that keeps the last id it saw misses none.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal, cast

from sqlalchemy import Connection, text

KEYS = text("SELECT key FROM segment")

EDGES = text("""
SELECT e.id, e.subscriber_id, e.join_no, e.edge, e.cause, e.at FROM segment_edge e
WHERE e.segment = :segment AND e.id > :after_id ORDER BY e.id LIMIT :limit
""")

NEWEST = text("""
SELECT coalesce((
    SELECT e.id FROM segment_edge e WHERE e.segment = :segment ORDER BY e.id DESC LIMIT 1), 0)
""")

# Both by the first row of an index.
TO_EVALUATE = text("""
SELECT EXISTS (SELECT FROM segment g WHERE g.due_at <= (SELECT clock_timestamp()))
    OR EXISTS (SELECT FROM segment_touch t WHERE t.due_at <= (SELECT clock_timestamp()))
""")


@dataclass(frozen=True, slots=True)
class Edge:
    """Somebody joined or left a segment.

    Attributes:
        id: grows within a segment as edges become visible.
        subscriber_id: who.
        join_no: for which time they joined, from 1; a leave has the number of its join. (segment,
            subscriber, join_no, edge) is unique for good.
        edge: join or leave.
        cause: `definition`: the expression is new or was changed (many at once, and nobody did
            anything); `schedule`: time, attributes, scores; `event`: something that they did.
        at: when it was noticed.
    """

    id: int
    subscriber_id: int
    join_no: int
    edge: Literal["join", "leave"]
    cause: Literal["definition", "schedule", "event"]
    at: dt.datetime


def segment_keys(connection: Connection) -> set[str]:
    """Every named segment that there is."""
    return set(connection.execute(KEYS).scalars())


def to_evaluate(connection: Connection) -> bool:
    """Whether a segment is due, or somebody in one was touched by what has happened."""
    return bool(connection.execute(TO_EVALUATE).scalar_one())


def edges_since(connection: Connection, segment: str, after_id: int, limit: int) -> list[Edge]:
    """Return up to `limit` edges of a segment behind the edge `after_id`, in order; none is skipped.

    Args:
        connection: inside a transaction; one that keeps its place there too acts on each edge once.
        segment: key; one that is not there (any more) has no edges to come.
        after_id: the last one that was seen; `newest_edge` to begin with those to come, 0 with all.
        limit: at most so many.
    """
    rows = connection.execute(EDGES, {"segment": segment, "after_id": after_id, "limit": limit})
    return [
        Edge(
            row.id,
            row.subscriber_id,
            row.join_no,
            cast(Literal["join", "leave"], row.edge),
            cast(Literal["definition", "schedule", "event"], row.cause),
            row.at,
        )
        for row in rows
    ]


def newest_edge(connection: Connection, segment: str) -> int:
    """Return the id of the newest edge of a segment; 0: it has none."""
    return int(connection.execute(NEWEST, {"segment": segment}).scalar_one())
