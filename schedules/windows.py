"""The instants at which limits let mails go to a subscriber in a zone.

An instant is open when what clocks show there at that instant is open: quiet hours that an hour
repeats stay quiet in both, and hours that a clock change leaps over are not there. Days are looked at
once and kept, since many subscribers share a zone and a rule.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Final, TypeAlias

from schedules.limits import Limits
from schedules.localtime import local

Span: TypeAlias = tuple[datetime, datetime]
"""A half-open span of instants in UTC."""

FAR: Final = timedelta(days=22)
"""Within so long every rule opens: a week, and as much again where a clock change took the hour."""

_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)


def open_spans(limits: Limits, zone: str, start: datetime, end: datetime) -> tuple[Span, ...]:
    """Return the open spans within ``[start, end)``, in order, none touching the next.

    Args:
        limits: its quiet hours and window; the cap plays no part.
        zone: IANA zone name.
        start: aware.
        end: aware.

    Raises:
        UnknownZone: ``zone`` is not in the tzdata package.
    """
    if not limits.local:
        return ((start, end),) if start < end else ()
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    days = _days(limits, zone)
    found: list[Span] = []
    day = start.date()
    while day <= end.date():
        spans = days.get(day)
        if spans is None:
            spans = _look(days, limits, zone, day)
        for begin, until in spans:
            begin, until = max(begin, start), min(until, end)
            if begin >= until:
                continue
            if found and found[-1][1] == begin:
                begin = found.pop()[0]
            found.append((begin, until))
        day += _DAY
    return tuple(found)


def next_open(limits: Limits, zone: str, at: datetime) -> datetime:
    """Return ``at`` where that is open, else the next instant that is. Raises as `_opening`."""
    return _opening(limits, zone, at)[0]


def next_window(limits: Limits, zone: str, at: datetime) -> datetime:
    """Return when the next window begins after ``at``; the one that is open at ``at`` is none.

    Raises:
        ValueError: as `next_open`, and where nothing ever closes.
    """
    begin, end = _opening(limits, zone, at)
    if begin > at:
        return begin
    if end >= at + FAR:
        raise ValueError("there is no next window where nothing is limited")
    return _opening(limits, zone, end)[0]


def _opening(limits: Limits, zone: str, at: datetime) -> Span:
    """Return the first open span from ``at`` on.

    Raises:
        ValueError: nothing opens within `FAR`.
    """
    for reach in (3 * _DAY, FAR):  # mostly tomorrow
        if spans := open_spans(limits, zone, at, at + reach):
            begin, end = spans[0]
            if reach == FAR or end < at + reach:
                return begin, end
    raise ValueError(f"its limits leave no hour in {FAR.days} days open in {zone}")


@lru_cache(maxsize=2048)
def _days(limits: Limits, zone: str) -> dict[date, tuple[Span, ...]]:
    """Return the days that were looked at for this rule and zone: one hash for all of them."""
    return {}


def _look(
    days: dict[date, tuple[Span, ...]], limits: Limits, zone: str, day: date
) -> tuple[Span, ...]:
    if len(days) > 500:
        days.clear()
    days[day] = found = _day(limits, zone, day)
    return found


def _day(limits: Limits, zone: str, day: date) -> tuple[Span, ...]:
    """Return the open spans of one day of UTC."""
    start = datetime.combine(day, time(), UTC)
    end = start + _DAY
    before, after = _offset(start, zone), _offset(end, zone)
    edges = {start, end}
    if before != after:
        edges.add(_change(start, end, zone))
    first, last = (start + min(before, after)).date(), (end + max(before, after)).date()
    while first <= last:
        for clock in limits.clocks():
            wall = datetime.combine(first, clock, UTC)
            edges.update(wall - offset for offset in (before, after))
        first += _DAY
    inside = sorted(edge for edge in edges if start <= edge <= end)
    found: list[Span] = []
    for begin, until in pairwise(inside):
        if not limits.open_at(local(begin, zone)):
            continue
        if found and found[-1][1] == begin:
            begin = found.pop()[0]
        found.append((begin, until))
    return tuple(found)


def _offset(at: datetime, zone: str) -> timedelta:
    return local(at, zone) - at.replace(tzinfo=None)


def _change(start: datetime, end: datetime, zone: str) -> datetime:
    """Return the first whole second of the later offset; there is one change between them."""
    before = _offset(start, zone)
    while end - start > _SECOND:
        middle = start + (end - start) // (2 * _SECOND) * _SECOND
        if _offset(middle, zone) == before:
            start = middle
        else:
            end = middle
    return end
