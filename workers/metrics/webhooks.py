"""What the fleet's metrics say of those who are told what happens."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from sqlalchemy import Connection

from tasks.webhooks import book
from workers.metrics.process import gauge


def look(connection: Connection) -> Iterator[Metric]:
    """Yield them, of one snapshot."""
    found = book.listed(connection)
    counts: dict[tuple[str, ...], float] = {}
    for each in found:
        for state in ("waiting", "dead"):
            counts[each["name"], state] = each[state]
    yield gauge("dripfleet_fleet_webhooks", counts)
    yield gauge(
        "dripfleet_fleet_webhook_oldest_seconds",
        {(each["name"],): each["oldest"] or 0.0 for each in found},
    )
    yield gauge(
        "dripfleet_fleet_webhook_stands",
        {
            (each["name"], stands): each["stands"] == stands
            for each in found
            for stands in ("good", "failing", "paused", "disabled")
        },
    )
