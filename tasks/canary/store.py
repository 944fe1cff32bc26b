"""The rows by which one sees that a pool answers."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

from sqlalchemy import Connection, text

# One row a worker; its time is the server's, so that workers' clocks need not agree. How far they
# are apart is known to within the statement's way here.
_SEEN = text("""
INSERT INTO canary (pool, worker, seen_at, clock_ahead)
VALUES (:queue, :worker, clock_timestamp(),
        CAST(:here AS float8) - extract(epoch FROM clock_timestamp())::float8)
ON CONFLICT (pool, worker) DO UPDATE
SET seen_at = excluded.seen_at, clock_ahead = excluded.clock_ahead
""")
_LATEST = text("SELECT pool, max(seen_at) FROM canary GROUP BY pool")


def seen(
    connection: Connection, queue: str, worker: str, here: Callable[[], float] = time.time
) -> None:
    """Write that `worker` answers `queue` now, and by how much its clock `here` is ahead."""
    connection.execute(_SEEN, {"queue": queue, "worker": worker, "here": here()})


def latest(connection: Connection) -> dict[str, dt.datetime]:
    """When each queue that was ever answered was so last."""
    return {pool: at for pool, at in connection.execute(_LATEST)}


def now(connection: Connection) -> dt.datetime:
    """The server's clock, by which `seen_at` is stamped."""
    at: dt.datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return at
