"""An enrollment that waits for its words alone goes on as soon as they are there."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

# Only who was moved for the words' sake: a wait of the sequence's own ends when it says. Enrollments
# in id order, and never waiting; one that is locked comes at the end of its lead.
WAKE = text("""
WITH held AS MATERIALIZED (
    SELECT e.id FROM asked a
    JOIN enrollment e ON e.id = a.enrollment_id AND e.step_id = a.step_id
    WHERE a.key = ANY(CAST(:keys AS bytea[]))
      AND e.active AND e.step_started_at IS NULL AND e.wait_rule ->> 'by' = 'words'
      AND e.due_at > (SELECT clock_timestamp()) AND e.parked_from IS NULL
    ORDER BY e.id FOR NO KEY UPDATE OF e SKIP LOCKED)
UPDATE enrollment e SET due_at = clock_timestamp() FROM held WHERE e.id = held.id
""")

# The same of people who were just asked for, whose texts were there already: not of everybody else who
# shares them, who are many and were woken before.
AT_ONCE = text("""
WITH held AS MATERIALIZED (
    SELECT e.id FROM unnest(CAST(:ids AS bigint[]), CAST(:steps AS text[])) AS r (id, step_id)
    JOIN enrollment e ON e.id = r.id AND e.step_id = r.step_id
    WHERE e.active AND e.step_started_at IS NULL AND e.wait_rule ->> 'by' = 'words'
      AND e.due_at > (SELECT clock_timestamp()) AND e.parked_from IS NULL
    ORDER BY e.id FOR NO KEY UPDATE OF e SKIP LOCKED)
UPDATE enrollment e SET due_at = clock_timestamp() FROM held WHERE e.id = held.id
""")


def wake(connection: Connection, keys: Sequence[bytes]) -> int:
    """Make due who waits for one of these texts, which are decided; returns how many."""
    return connection.execute(WAKE, {"keys": list(keys)}).rowcount


def wake_at_once(connection: Connection, asked: Sequence[tuple[int, str]]) -> int:
    """Make these due, (enrollment, step), whose texts were decided before they asked; returns how many."""
    ids, steps = [each[0] for each in asked], [each[1] for each in asked]
    return connection.execute(AT_ONCE, {"ids": ids, "steps": steps}).rowcount
