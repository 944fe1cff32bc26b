"""Whether webhooks wait to be delivered: asked by whoever rings, which knows no more of them."""

from __future__ import annotations

from sqlalchemy import Connection, text

# By one row of an index for each endpoint, and by the few calls that nobody has taken over.
WAITING = text("""
SELECT EXISTS (SELECT FROM webhook_endpoint e
    WHERE e.paused_at IS NULL AND e.disabled_at IS NULL
      AND coalesce(e.quiet_until, '-infinity') <= clock_timestamp()
      AND EXISTS (SELECT FROM webhook_delivery d
          WHERE d.endpoint_id = e.id AND d.due_at <= (SELECT clock_timestamp())))
    OR EXISTS (SELECT FROM webhook_outbox o JOIN webhook_endpoint e ON e.name = o.target
        WHERE o.delivered_at IS NULL AND e.disabled_at IS NULL)
""")


def to_deliver(connection: Connection) -> bool:
    """Whether an endpoint that may be asked has something due."""
    return bool(connection.execute(WAITING).scalar_one())
