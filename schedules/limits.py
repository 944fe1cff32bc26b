"""When a sequence may write, and how often: ``limits`` of a file, as values and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any, Final, Literal, TypeAlias, cast

from schedules.durations import parse_clock, parse_duration
from schedules.entry import Rate, parse_rate

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Scope: TypeAlias = Literal["sequence", "topic", "all"]
OnHit: TypeAlias = Literal["wait", "skip"]
PauseClock: TypeAlias = Literal["run", "freeze"]
"""What a pause does to waits: they run on, or are longer by it."""


@dataclass(frozen=True, slots=True)
class Hours:
    """Local times of day ``[start, end)``; they cross midnight where ``end`` is not after ``start``."""

    start: time
    end: time

    def holds(self, at: time) -> bool:
        """Tell whether a time of day lies within."""
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


@dataclass(frozen=True, slots=True)
class SendWindow:
    """Local weekdays (0 is Monday) and hours; without hours the whole of these days.

    Hours that cross midnight belong to the day on which they begin.
    """

    days: tuple[int, ...] = tuple(range(7))
    hours: Hours | None = None

    def holds(self, wall: datetime) -> bool:
        """Tell whether a wall time lies within."""
        hours, day, at = self.hours, wall.weekday(), wall.time()
        if hours is None:
            return day in self.days
        if not hours.holds(at):
            return False
        begun = day if hours.start < hours.end or at >= hours.start else (day - 1) % 7
        return begun in self.days


@dataclass(frozen=True, slots=True)
class Cap:
    """At most ``max`` mails to a subscriber in any span of ``per``.

    Attributes:
        max: mails.
        per: the rolling window.
        scope: which marketing mails count: of this sequence, of its topic, or all.
        on_hit: ``wait`` for the next free slot, or ``skip`` the mail.
        give_up_after: a mail that has waited so long is skipped; None waits on.
    """

    max: int
    per: timedelta
    scope: Scope = "all"
    on_hit: OnHit = "wait"
    give_up_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """When mails may go, in the subscriber's time, and how many.

    `throttle` is the rate of the mails of the sequence, to everybody in it together.
    """

    quiet_hours: Hours | None = None
    send_window: SendWindow | None = None
    cap: Cap | None = None
    throttle: Rate | None = None

    @property
    def local(self) -> bool:
        """Whether the local time decides."""
        return self.quiet_hours is not None or self.send_window is not None

    def open_at(self, wall: datetime) -> bool:
        """Tell whether mails may go while clocks where the subscriber is show ``wall``."""
        if self.quiet_hours is not None and self.quiet_hours.holds(wall.time()):
            return False
        return self.send_window is None or self.send_window.holds(wall)

    def clocks(self) -> tuple[time, ...]:
        """The times of day at which that may change, midnight among them."""
        hours = [self.quiet_hours, self.send_window.hours if self.send_window else None]
        found = {clock for each in hours if each for clock in (each.start, each.end)}
        return tuple(sorted(found | {time()}))


UNLIMITED: Final = Limits()


def limits_to_json(limits: Limits) -> dict[str, Any] | None:
    """Return plain values, without the empty ones; None where nothing is limited."""
    quiet, window, cap = limits.quiet_hours, limits.send_window, limits.cap
    found: dict[str, Any] = {}
    if quiet is not None:
        found["quiet_hours"] = {"from": quiet.start, "to": quiet.end}
    if window is not None:
        found["send_window"] = {"days": [WEEKDAYS[day] for day in window.days]}
        if window.hours is not None:
            found["send_window"] |= {"from": window.hours.start, "to": window.hours.end}
    if cap is not None:
        found["cap"] = {
            "max": cap.max, "per": cap.per, "scope": cap.scope, "on_hit": cap.on_hit,
            "give_up_after": cap.give_up_after,
        }  # fmt: skip
    if limits.throttle is not None:
        found["throttle"] = str(limits.throttle)
    return found or None


def limits_from_json(data: Mapping[str, Any] | None) -> Limits:
    """Read what `limits_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it never wrote this.
    """
    if not data:
        return UNLIMITED
    quiet, window, cap = (data.get(key) for key in ("quiet_hours", "send_window", "cap"))
    return Limits(
        quiet_hours=_hours(quiet) if quiet else None,
        send_window=SendWindow(
            tuple(WEEKDAYS.index(day) for day in window["days"]),
            _hours(window) if "from" in window else None,
        )
        if window
        else None,
        cap=Cap(
            cap["max"],
            parse_duration(cap["per"]),
            cast(Scope, cap["scope"]),
            cast(OnHit, cap["on_hit"]),
            parse_duration(cap["give_up_after"]) if "give_up_after" in cap else None,
        )
        if cap
        else None,
        throttle=parse_rate(data["throttle"]) if "throttle" in data else None,
    )


def _hours(data: Mapping[str, Any]) -> Hours:
    return Hours(parse_clock(data["from"]), parse_clock(data["to"]))
