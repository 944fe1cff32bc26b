"""Enrollments that end by a rule, before the planner looks at them: what is queued goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from tasks.moves.statement import move


@dataclass(frozen=True, slots=True)
class Leaving:
    """An enrollment that ends; `reason` in a word, `because` in plain ones."""

    enrollment_id: int
    reason: str
    because: str


# Locked in id order, before the messages. Who has ended meanwhile is left alone.
END = text("""
WITH held AS MATERIALIZED (
    SELECT e.id FROM enrollment e
    WHERE e.id = ANY(CAST(:ids AS bigint[])) AND e.active ORDER BY e.id FOR NO KEY UPDATE),
ended AS (
    UPDATE enrollment e SET active = false, ended_at = clock_timestamp(), end_reason = r.reason,
        due_at = NULL, parked_from = NULL
    FROM held, unnest(CAST(:ids AS bigint[]), CAST(:reasons AS text[]), CAST(:because AS text[]))
         AS r (id, reason, because)
    WHERE e.id = held.id AND r.id = held.id AND e.active
    RETURNING e.id, e.subscriber_id, e.sequence_key, e.step_id, r.reason, r.because),
logged AS (
    INSERT INTO decision (subscriber_id, sequence_key, enrollment_id, step_id, kind, reason, detail)
    SELECT subscriber_id, sequence_key, id, step_id, 'exited', reason,
           jsonb_build_object('because', because)
    FROM ended)
SELECT id FROM ended
""")

# What has no permission for its dot is called back; what has it cannot be.
CANCEL = text(
    move(
        """
    SELECT m.id, m.enrollment_id FROM message m
    WHERE m.enrollment_id = ANY(CAST(:ids AS bigint[])) AND m.state IN ('scheduled', 'working')""",
        "m.state IN ('scheduled', 'working')",
        """
        state = 'cancelled', owner = NULL, watch_at = NULL, run_at = NULL, parked_from = NULL,
        terminal_at = clock_timestamp(), reason = e.end_reason""",
        source="JOIN target t ON t.id = lm.id JOIN enrollment e ON e.id = t.enrollment_id",
    )
)


def leave(connection: Connection, leaving: Sequence[Leaving]) -> list[int]:
    """End enrollments and cancel what is queued of them; returns the ids of those that ended."""
    if not leaving:
        return []
    values = {
        "ids": [each.enrollment_id for each in leaving],
        "reasons": [each.reason for each in leaving],
        "because": [each.because for each in leaving],
    }
    ended = sorted(connection.execute(END, values).scalars())
    if ended:
        connection.execute(CANCEL, {"ids": ended})
    return ended
