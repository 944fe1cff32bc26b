"""What a pending wait for a wall time becomes when the subscriber's zone, or the zone data, changes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from schedules.localtime import TZDATA_VERSION, resolve

_BY_CLOCK = ("quiet_hours", "send_window", "max_lateness")


def depends_on_zone(rule: Mapping[str, Any]) -> bool:
    """Tell whether a rule, as it was stored, would be another elsewhere."""
    return "wall" in rule or rule.get("by") in _BY_CLOCK


def retime(rule: Mapping[str, Any], zone: str, now: datetime) -> tuple[datetime, Mapping[str, Any]]:
    """Return when a pending wait ends in `zone`, and its rule.

    The wall time stays what it was. Where it is past already, a wait for a time of day ends at that
    time of the next day; a wait for a date ends then, so at once. A mail that quiet hours moved is
    looked at again, now.

    Args:
        rule: one of which `depends_on_zone` holds.
        zone: IANA zone name.
        now: aware.

    Raises:
        UnknownZone: ``zone`` is not in the tzdata package.
    """
    if "wall" not in rule:
        return now, rule
    wall = datetime.fromisoformat(rule["wall"])
    until = resolve(wall, zone)
    while rule.get("kind") == "calendar_days" and until <= now:
        wall += timedelta(days=1)
        until = resolve(wall, zone)
    return until, {**rule, "wall": wall.isoformat(), "zone": zone, "tzdata": TZDATA_VERSION}
