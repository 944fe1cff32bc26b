"""What instant a wall time is, and what wall time an instant is, in a subscriber's zone.

Zone data comes from the pinned ``tzdata`` package alone: each zone is read out of the package with
``ZoneInfo.from_file`` into a cache of this module. ``zoneinfo.TZPATH`` and the cache behind
``ZoneInfo(key)`` are left as they are, so a machine's own zone files can neither change an answer
here, nor does importing this module change an answer elsewhere.

A wall time is a naive ``datetime``, an instant an aware one; ``fold`` is never read or set. The
wall times that do not exist or exist twice (PEP 495) have one answer each: a time in a gap is the
first instant after the gap, an ambiguous time its first occurrence.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from functools import cache
from importlib import resources
from typing import Final
from zoneinfo import ZoneInfo

import tzdata  # type: ignore[import-untyped]

TZDATA_VERSION: Final[str] = tzdata.IANA_VERSION
"""IANA release of the zone data, such as ``2026f``; stored with a rule that was resolved by it."""

_SECOND: Final = timedelta(seconds=1)


class UnknownZone(ValueError):
    """A zone name that the tzdata package does not hold."""

    def __init__(self, zone: str) -> None:
        super().__init__(
            f"{zone[:64]!r} is not a time zone of tzdata {TZDATA_VERSION}: expected an IANA name such"
            " as Europe/Berlin; ask is_zone() first and use the fallback of the sequence"
        )


@cache
def zones() -> frozenset[str]:
    """Return every zone name of the package; ``Factory``, its word for "not set", is none."""
    names = resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split()
    return frozenset(names) - {"Factory"}


def is_zone(name: str | None) -> bool:
    """Tell whether ``name`` is an IANA zone name, in its exact spelling."""
    return name in zones()


def resolve(wall: datetime, zone: str) -> datetime:
    """Return the instant (UTC) at which clocks in ``zone`` show ``wall``.

    Args:
        wall: naive local time.
        zone: IANA zone name.

    Returns:
        The first such instant; for a time inside a DST gap, the first instant after the gap.

    Raises:
        UnknownZone: ``zone`` is not in the tzdata package.
        ValueError: ``wall`` carries a zone already.
        OverflowError: the instant lies outside the years 1 to 9999.
    """
    if wall.tzinfo is not None:
        raise ValueError(
            f"{wall.isoformat()} carries a zone: expected a naive local time; drop its tzinfo"
        )
    info = _zone(zone)
    instant = wall.replace(fold=0, tzinfo=info).astimezone(UTC)
    if local(instant, zone) == wall:
        return instant
    return _end_of_gap(wall, info)


def local(instant: datetime, zone: str) -> datetime:
    """Return what clocks in ``zone`` show at ``instant``: naive, without fold.

    Raises:
        UnknownZone: ``zone`` is not in the tzdata package.
        ValueError: ``instant`` is naive.
        OverflowError: the wall time lies outside the years 1 to 9999.
    """
    if instant.tzinfo is None:
        raise ValueError(
            f"{instant.isoformat()} is no instant: expected an aware datetime; give it a tzinfo"
        )
    return instant.astimezone(_zone(zone)).replace(tzinfo=None, fold=0)


def calendar_wall(instant: datetime, zone: str, days: int, at: time | None) -> datetime:
    """Return the wall time ``days`` local dates after ``instant``, at ``at`` o'clock.

    Without ``at`` the local time of day stays what it is at ``instant``. The result is what the
    rule says and need not exist: pass it to `resolve`, and store both.
    """
    here = local(instant, zone)
    wanted = here.timetz() if at is None else at.replace(fold=0)
    return datetime.combine(here.date() + timedelta(days=days), wanted)


def add_calendar_days(instant: datetime, zone: str, days: int, at: time | None) -> datetime:
    """Return the instant (UTC) ``days`` local dates after ``instant``, at ``at`` o'clock there.

    Two calendar days are 47, 48 or 49 hours where clocks change in between. Raises as `resolve`.
    """
    return resolve(calendar_wall(instant, zone, days, at), zone)


@cache
def _zone(name: str) -> ZoneInfo:
    # The name must be one of the list before it becomes part of a path.
    if name not in zones():
        raise UnknownZone(name)
    path = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    with path.open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def _end_of_gap(wall: datetime, info: ZoneInfo) -> datetime:
    """Return the transition that jumps over ``wall``, by bisection over whole seconds.

    In a gap, fold 0 reads ``wall`` with the offset from before the transition and fold 1 with the
    one from after it (PEP 495): as instants they lie on either side of it.
    """
    after = wall.replace(fold=0, tzinfo=info).astimezone(UTC).replace(microsecond=0) + _SECOND
    before = wall.replace(fold=1, tzinfo=info).astimezone(UTC).replace(microsecond=0)
    while after - before > _SECOND:
        middle = before + (after - before) // (2 * _SECOND) * _SECOND
        if middle.astimezone(info).replace(tzinfo=None) > wall:
            after = middle
        else:
            before = middle
    return after
