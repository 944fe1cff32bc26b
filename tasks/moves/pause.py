"""Pauses: paused work is parked at `infinity`, so that it never stands at the head of a queue."""

from __future__ import annotations

from sqlalchemy import Connection, text

PAUSE = text("""
UPDATE sequence SET paused_at = clock_timestamp(), pause_reason = :reason
WHERE key = :key AND paused_at IS NULL
""")
RESUME = text("UPDATE sequence SET paused_at = NULL, pause_reason = NULL WHERE key = :key")

PAUSE_STREAM = text("""
UPDATE stream SET paused_at = clock_timestamp(), pause_reason = :reason
WHERE key = :key AND paused_at IS NULL
""")
RESUME_STREAM = text("UPDATE stream SET paused_at = NULL, pause_reason = NULL WHERE key = :key")

# Only while a sequence is paused, so the walk over a backlog of the others is the exception.
PARK = text("""
UPDATE message m SET parked_from = m.run_at, run_at = 'infinity'
WHERE m.id = ANY(ARRAY(
    SELECT x.id FROM message x
    WHERE x.run_at <= (SELECT clock_timestamp()) AND x.state = 'scheduled'
      AND x.stream = ANY(ARRAY(SELECT key FROM stream))
      AND x.sequence_key = ANY(ARRAY(SELECT q.key FROM sequence q WHERE q.paused_at IS NOT NULL))
    ORDER BY x.id LIMIT 5000 FOR NO KEY UPDATE SKIP LOCKED))
  AND m.state = 'scheduled'
""")

WAKE_ENROLLMENTS = text("""
WITH held AS MATERIALIZED (
    SELECT e.id FROM enrollment e JOIN sequence q ON q.key = e.sequence_key
    WHERE e.parked_from IS NOT NULL AND q.paused_at IS NULL
    ORDER BY e.id LIMIT 5000 FOR NO KEY UPDATE OF e SKIP LOCKED)
UPDATE enrollment e SET due_at = e.parked_from, parked_from = NULL
FROM held WHERE e.id = held.id
""")
# A pause that freezes time does not count against `expires_at` either.
WAKE_MESSAGES = text("""
WITH held AS MATERIALIZED (
    SELECT m.id FROM message m JOIN sequence q ON q.key = m.sequence_key
    WHERE m.parked_from IS NOT NULL AND m.state = 'scheduled' AND q.paused_at IS NULL
    ORDER BY m.id LIMIT 5000 FOR NO KEY UPDATE OF m SKIP LOCKED)
UPDATE message m SET run_at = m.parked_from, parked_from = NULL,
    expires_at = m.expires_at + coalesce((
        SELECT p.resumed_at - greatest(p.paused_at, m.created_at)
        FROM sequence_pause p JOIN sequence_version v
          ON v.sequence_key = m.sequence_key AND v.version = m.sequence_version
        WHERE p.sequence_key = m.sequence_key AND p.resumed_at > m.parked_from
          AND v.definition -> 'pause' ->> 'clock' = 'freeze'
        ORDER BY p.paused_at DESC LIMIT 1), interval '0')
FROM held WHERE m.id = held.id
""")
ANY_PAUSED = text("SELECT EXISTS (SELECT 1 FROM sequence WHERE paused_at IS NOT NULL)")


def pause(connection: Connection, key: str, reason: str) -> bool:
    """Pause a sequence: no entries, no sends, nobody exits for it; False: it was paused already."""
    return connection.execute(PAUSE, {"key": key, "reason": reason}).rowcount > 0


def resume(connection: Connection, key: str) -> None:
    """Let it run again; `wake` brings back what was parked."""
    connection.execute(RESUME, {"key": key})


def pause_stream(connection: Connection, key: str, reason: str) -> bool:
    """Stop a stream: its messages keep their places; False: it was paused already, or is none."""
    return connection.execute(PAUSE_STREAM, {"key": key, "reason": reason}).rowcount > 0


def resume_stream(connection: Connection, key: str) -> bool:
    """Let a stream go on; False: there is none of that name."""
    return connection.execute(RESUME_STREAM, {"key": key}).rowcount > 0


def park(connection: Connection) -> int:
    """Park due messages of paused sequences; up to 5 000 at a time."""
    if not connection.execute(ANY_PAUSED).scalar_one():
        return 0
    return connection.execute(PARK).rowcount


def wake(connection: Connection) -> int:
    """Wake what is parked in sequences that run; up to 5 000 enrollments and messages at a time."""
    return (
        connection.execute(WAKE_ENROLLMENTS).rowcount + connection.execute(WAKE_MESSAGES).rowcount
    )
