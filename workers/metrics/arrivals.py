"""What the fleet's metrics say of those who come in: segments, and the doors of sequences."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from sqlalchemy import Connection

from tasks.upkeep import arrivals, checks
from tasks.upkeep.overview import Overview
from workers.metrics.process import gauge


def look(connection: Connection, now: Overview) -> Iterator[Metric]:
    """Yield them, of one snapshot."""
    yield from _segments(connection)
    refused = arrivals.refused(connection)
    yield gauge("dripfleet_fleet_entries_refused", {(*key,): n for key, n in refused.items()})
    waiting: dict[tuple[str, ...], float] = {(q.key, "turn"): 0 for q in now.sequences}
    yield gauge("dripfleet_fleet_entries_waiting", waiting | arrivals.waiting(connection))
    news, asking = checks.unheard(connection)
    yield gauge("dripfleet_fleet_event_oldest_seconds", news or 0.0)
    yield gauge("dripfleet_fleet_entry_oldest_seconds", max(asking or 0.0, 0.0))
    yield gauge(
        "dripfleet_fleet_sequence_draining",
        {(q.key,): q.draining_since is not None for q in now.sequences},
    )


def _segments(connection: Connection) -> Iterator[Metric]:
    found = arrivals.segments(connection)
    people: dict[tuple[str, ...], float] = {}
    moved: dict[tuple[str, ...], float] = {}
    for each in found:
        people[each.key, "in"], people[each.key, "unknown"] = each.members, each.unknown
        for edge in arrivals.JOIN_AND_LEAVE:
            moved[each.key, edge] = 0
    yield gauge("dripfleet_fleet_segment_members", people)
    yield gauge(
        "dripfleet_fleet_segment_edges", moved | arrivals.edges_of_the_last_hour(connection)
    )
    yield gauge("dripfleet_fleet_segment_age_seconds", {(s.key,): s.age for s in found})
    yield gauge("dripfleet_fleet_segment_overdue_seconds", {(s.key,): s.overdue for s in found})
    yield gauge("dripfleet_fleet_segment_took_seconds", {(s.key,): s.took for s in found})
    yield gauge("dripfleet_fleet_segment_faults", {(s.key,): s.faults for s in found})
    _, waits = checks.segments(connection)
    yield gauge("dripfleet_fleet_segment_touch_seconds", max(waits or 0.0, 0.0))
