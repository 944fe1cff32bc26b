"""Which work on content waits for a worker: the dispatcher rings for it, the personalize pool does it."""

from __future__ import annotations

from sqlalchemy import Connection, text

# What somebody holds, or what is put off, is not waiting; a model that was down is not asked yet.
WAITING = text("""
SELECT DISTINCT w.task FROM content_work w LEFT JOIN model_circuit c ON c.model = w.model
WHERE w.state = 'open' AND w.retry_at <= clock_timestamp()
  AND (w.lease_until IS NULL OR w.lease_until <= clock_timestamp())
  AND coalesce(c.open_until, '-infinity') <= clock_timestamp()
""")


def waiting(connection: Connection) -> set[str]:
    """The tasks that have work."""
    return set(connection.execute(WAITING).scalars())
