"""Where a stream is sent from: a region has send workers of its own, and a queue of its own.

A stream without a region is sent by the workers that name none, through the queue `send`; one of
region `eu` by `dripfleet worker send --region eu`, through `send@eu`. The row decides: a doorbell
that lies in another queue finds nothing to claim there.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from tasks import names

REGIONS = text("SELECT DISTINCT region FROM stream WHERE region IS NOT NULL ORDER BY 1")
HOLD = text("SELECT region FROM stream WHERE key = :key FOR UPDATE")
SET = text("UPDATE stream SET region = :region WHERE key = :key")
# Nobody asks a queue for its canary that no stream names: its silence would be told for ever.
FORGET = text("""
DELETE FROM canary c WHERE c.pool = :queue
  AND NOT EXISTS (SELECT 1 FROM stream t WHERE t.region = :region)
""")


def regions(connection: Connection) -> list[str]:
    """The regions that streams name."""
    return list(connection.execute(REGIONS).scalars())


def queues(connection: Connection) -> list[str]:
    """Every queue of the fleet: one a pool, and one a region that a stream names."""
    return [*names.POOLS, *(names.queue_of("send", region) for region in regions(connection))]


def move(connection: Connection, stream: str, region: str | None) -> bool:
    """Send a stream from another region from now on; False: it was there already.

    What a worker holds of it already ends where it is; what is due is claimed at the new place.

    Args:
        connection: inside a transaction.
        stream: key of one that is there.
        region: as `names.REGION` has it; None: none.
    """
    before: str | None = connection.execute(HOLD, {"key": stream}).scalar_one()
    if before == region:
        return False
    connection.execute(SET, {"key": stream, "region": region})
    if before is not None:
        queue = names.queue_of("send", before)
        connection.execute(FORGET, {"queue": queue, "region": before})
    return True
