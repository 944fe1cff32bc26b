"""Stops: a subscriber gets nothing more, also what was queued already.

The subscriber's lock is taken first (by the trigger on `subscriber.stopped_at`), so that no ARM
that holds it is overtaken: what was armed before the stop goes out, nothing is armed after it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

from tasks.moves.statement import move

# The subscriber's lock before its row, in id order: as the triggers on suppression and consent do.
LOCK = text("SELECT pg_advisory_xact_lock(id) FROM unnest(CAST(:ids AS bigint[])) AS id")

MARK = text("""
UPDATE subscriber SET stopped_at = clock_timestamp(), stopped_reason = :reason
WHERE id = ANY(ARRAY(
    SELECT s.id FROM subscriber s WHERE s.id = ANY(:ids) AND s.stopped_at IS NULL
    ORDER BY s.id FOR NO KEY UPDATE))
RETURNING id
""")

END_ENROLLMENTS = text("""
WITH held AS MATERIALIZED (
    SELECT e.id FROM enrollment e WHERE e.subscriber_id = ANY(:ids) AND e.active
    ORDER BY e.id FOR NO KEY UPDATE),
ended AS (
    UPDATE enrollment e SET active = false, ended_at = clock_timestamp(), end_reason = :reason,
        due_at = NULL, parked_from = NULL
    FROM held WHERE e.id = held.id AND e.active
    RETURNING e.id, e.subscriber_id, e.sequence_key, e.step_id),
logged AS (
    INSERT INTO decision (subscriber_id, sequence_key, enrollment_id, step_id, kind, reason)
    SELECT subscriber_id, sequence_key, id, step_id, 'exited', :reason FROM ended)
SELECT count(*) FROM ended
""")

SUPPRESS_QUEUED = text(
    move(
        """
    SELECT m.id, m.enrollment_id FROM message m
    WHERE m.subscriber_id = ANY(:ids) AND m.state IN ('scheduled', 'working')""",
        "m.state IN ('scheduled', 'working')",
        """
        state = 'suppressed', owner = NULL, watch_at = NULL, run_at = NULL, parked_from = NULL,
        terminal_at = clock_timestamp(), reason = :reason""",
    )
)


def stop_subscribers(connection: Connection, ids: Sequence[int], reason: str) -> tuple[int, int]:
    """Stop at most 500 subscribers: mark them, end their enrollments, suppress what is queued.

    Args:
        connection: inside a transaction; each subscriber holds an entry of the lock table in it.
        ids: subscriber ids; those stopped before keep their time and reason.
        reason: in a word, e.g. `unsubscribe`, `operator`, `erasure`.

    Returns:
        (enrollments ended, messages suppressed).
    """
    if len(ids) > 500:
        raise ValueError(f"{len(ids)} subscribers in one transaction; stop at most 500 at a time")
    parameters = {"ids": sorted(ids), "reason": reason}
    connection.execute(LOCK, parameters)
    connection.execute(MARK, parameters)
    ended = int(connection.execute(END_ENROLLMENTS, parameters).scalar_one())
    suppressed = int(connection.execute(SUPPRESS_QUEUED, parameters).scalar_one())
    return ended, suppressed


def stop_subscriber(connection: Connection, subscriber_id: int, reason: str) -> tuple[int, int]:
    """Stop one; see `stop_subscribers`."""
    return stop_subscribers(connection, [subscriber_id], reason)
