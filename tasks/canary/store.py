"""The rows by which one sees that a pool answers."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, text

# One row a worker; its time is the server's, so that workers' clocks need not agree.
_SEEN = text(
    "INSERT INTO canary (pool, worker, seen_at) VALUES (:pool, :worker, clock_timestamp())"
    " ON CONFLICT (pool, worker) DO UPDATE SET seen_at = excluded.seen_at"
)
_LATEST = text("SELECT pool, max(seen_at) FROM canary GROUP BY pool")


def seen(connection: Connection, pool: str, worker: str) -> None:
    """Write that `worker` of `pool` answers now."""
    connection.execute(_SEEN, {"pool": pool, "worker": worker})


def latest(connection: Connection) -> dict[str, dt.datetime]:
    """When each pool that ever answered did so last."""
    return {pool: at for pool, at in connection.execute(_LATEST)}


def now(connection: Connection) -> dt.datetime:
    """The server's clock, by which `seen_at` is stamped."""
    at: dt.datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return at
