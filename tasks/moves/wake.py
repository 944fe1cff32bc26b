"""An enrollment that waits for its words alone goes on as soon as they are there."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

# Only who was moved for the words' sake: a wait of the sequence's own ends when it says.
FOR_WORDS = """e.active AND e.step_started_at IS NULL AND e.wait_rule ->> 'by' = 'words'
      AND e.due_at > (SELECT clock_timestamp()) AND e.parked_from IS NULL"""

# Enrollments in id order, and never waiting; one that is locked comes at the end of its lead.
WAKE = text(f"""
WITH held AS MATERIALIZED (
    SELECT e.id FROM asked a
    JOIN enrollment e ON e.id = a.enrollment_id AND e.step_id = a.step_id
    WHERE a.key = ANY(CAST(:keys AS bytea[]))
      AND {FOR_WORDS}
    ORDER BY e.id FOR NO KEY UPDATE OF e SKIP LOCKED)
UPDATE enrollment e SET due_at = clock_timestamp() FROM held WHERE e.id = held.id
""")


def wake(connection: Connection, keys: Sequence[bytes]) -> int:
    """Make due who waits for one of these texts, which are decided; returns how many."""
    return connection.execute(WAKE, {"keys": list(keys)}).rowcount
