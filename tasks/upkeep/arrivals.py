"""Who comes in, in counts for metrics: named segments, their edges, and the doors of sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from tasks.upkeep.overview import MOST

SEGMENTS = text("""
SELECT g.key, g.members, g.unknown, coalesce(g.took, 0)::float8 AS took, g.faults,
    extract(epoch FROM clock_timestamp() - coalesce(g.evaluated_at, g.applied_at))::float8 AS age,
    greatest(extract(epoch FROM clock_timestamp() - g.due_at), 0)::float8 AS overdue
FROM segment g ORDER BY 1
""")
EDGES = text("""
SELECT segment, edge, count(*) AS n FROM (
    SELECT e.segment, e.edge FROM segment_edge e
    WHERE e.at > clock_timestamp() - interval '1 hour' LIMIT :most) x
GROUP BY 1, 2
""")
REFUSED = text("SELECT sequence_key, reason, sum(n)::bigint AS n FROM refusal_count GROUP BY 1, 2")
WAITING = text("""
SELECT sequence_key, reason, count(*) AS n FROM (
    SELECT r.sequence_key, coalesce(r.why, 'turn') AS reason FROM entry_request r LIMIT :most) x
GROUP BY 1, 2
""")

JOIN_AND_LEAVE: Final = ("join", "leave")


@dataclass(frozen=True, slots=True)
class SegmentCount:
    """A named segment; times in seconds.

    Attributes:
        age: since everybody was evaluated; since it was applied, where nobody was yet.
        overdue: since everybody was to be evaluated; 0.0 before its time.
        took: what that took the last time.
        faults: evaluations that failed, one after the other.
    """

    key: str
    members: int
    unknown: int
    took: float
    faults: int
    age: float
    overdue: float


def segments(connection: Connection) -> list[SegmentCount]:
    """Every named segment."""
    return [SegmentCount(**row._mapping) for row in connection.execute(SEGMENTS)]


def edges_of_the_last_hour(connection: Connection) -> dict[tuple[str, str], int]:
    """(segment, edge) → how many joined or left it; counted up to `MOST` over all."""
    return {(r.segment, r.edge): r.n for r in connection.execute(EDGES, {"most": MOST})}


def refused(connection: Connection) -> dict[tuple[str, str], int]:
    """(sequence, reason) → how often somebody did not come in for it, ever."""
    return {(r.sequence_key, r.reason): r.n for r in connection.execute(REFUSED)}


def waiting(connection: Connection) -> dict[tuple[str, str], int]:
    """(sequence, what they wait for) → requests; counted up to `MOST` over all."""
    return {(r.sequence_key, r.reason): r.n for r in connection.execute(WAITING, {"most": MOST})}
