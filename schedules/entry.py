"""How people come into a sequence: what lets them in, and the rules that judge them at the door.

::

    entry:
      trigger: {event: subscription.paused, where: "event.plan != 'free'"}
      filter: "sub.country in ['DE', 'AT']"
      reentry: {policy: after_exit, cooldown: 90d, max_entries: 3}
      admission: {max_active: 50000, rate: 2000/h}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, cast

from schedules.durations import format_duration, parse_duration
from schedules.expression import Expression, Needs, read
from schedules.reading import suggest
from schedules.stored import duration, plain

Policy: TypeAlias = Literal["never", "after_exit", "concurrent"]
WhileActive: TypeAlias = Literal["ignore", "restart", "queue_one"]
OnStale: TypeAlias = Literal["skip", "enter"] | timedelta
"""What becomes of those whose filter needs a score that is missing or too old; a wait, as a span."""

MAX_AGE: Final = timedelta(days=3)
"""An event that happened longer ago than this lets nobody in: an import of history is no news."""

_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/(m|h|d)", re.ASCII)
_SPOKEN: Final = re.compile(
    r"([1-9][0-9]{0,8}) *(?:/|per|an?|each) *(m|min|minute|h|hour|d|day)s?", re.ASCII
)
_WAIT: Final = re.compile(r"wait\(([^()]*)\)", re.ASCII)
_PER: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


@dataclass(frozen=True, slots=True)
class EventTrigger:
    """Each event of that name asks for an entry, if ``where`` holds of it and it is not too old."""

    event: str
    where: Expression | None = None
    max_age: timedelta = MAX_AGE


@dataclass(frozen=True, slots=True)
class SegmentTrigger:
    """Who joins the segment asks for an entry."""

    segment: str


@dataclass(frozen=True, slots=True)
class ScheduleTrigger:
    """At each fire of a cron line everybody asks (``audience`` None), or those of whom it holds."""

    cron: str
    zone: str
    audience: Expression | None = None


Trigger: TypeAlias = EventTrigger | SegmentTrigger | ScheduleTrigger


@dataclass(frozen=True, slots=True)
class Reentry:
    """Whether somebody comes in again (R7); ``cooldown`` counts from the last exit."""

    policy: Policy = "never"
    cooldown: timedelta | None = None
    max_entries: int | None = None
    while_active: WhileActive = "ignore"


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``n`` people in ``per``, evenly: never more than a minute's share at once."""

    n: int
    per: timedelta

    @property
    def interval(self) -> timedelta:
        """Time that each entry takes up."""
        return self.per / self.n

    def __str__(self) -> str:
        return f"{self.n}/{next(unit for unit, span in _PER.items() if span == self.per)}"


@dataclass(frozen=True, slots=True)
class Admission:
    """How many may be in at a time, and how fast they come; the surplus waits its turn."""

    max_active: int | None = None
    rate: Rate | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """How people come in.

    Attributes:
        manual: by hand too (``dripfleet enqueue``).
        trigger: what lets them in by itself.
        filter: must hold of whoever asks, whichever way they come.
        on_stale_score: where the filter cannot tell for want of a fresh score.
        dedupe_key: a value that enters once in the life of the sequence.
    """

    manual: bool = True
    trigger: Trigger | None = None
    filter: Expression | None = None
    on_stale_score: OnStale | None = None
    dedupe_key: Expression | None = None
    reentry: Reentry = Reentry()
    admission: Admission | None = None

    def __post_init__(self) -> None:
        if not self.manual and self.trigger is None:
            raise ValueError("an entry without a trigger and not by hand: expected one of them")

    @property
    def ruled(self) -> bool:
        """Whether those who come in by hand or by the clock are judged by more than being in already."""
        judged = (self.filter, self.dedupe_key, self.admission)
        return any(rule is not None for rule in judged) or self.reentry != Reentry()

    @property
    def where(self) -> Expression | None:
        """What must hold of an event."""
        return self.trigger.where if isinstance(self.trigger, EventTrigger) else None

    @property
    def needs(self) -> Needs:
        """What must be known of whoever asks."""
        found = Needs()
        for rule in (self.where, self.filter, self.dedupe_key):
            if rule is not None:
                found |= rule.needs
        return found


BY_HAND: Final = Entry()
"""The entry of a sequence that says no more than that people are enrolled."""


def asked_at_the_door(entry: Entry) -> Iterator[tuple[tuple[str, ...], Expression]]:
    """Yield each expression of an entry, and its place in a file."""
    trigger = entry.trigger
    if isinstance(trigger, ScheduleTrigger) and trigger.audience is not None:
        yield ("entry", "trigger", "audience"), trigger.audience
    for key, rule in (("filter", entry.filter), ("dedupe_key", entry.dedupe_key)):
        if rule is not None:
            yield ("entry", key), rule
    if entry.where is not None:
        yield ("entry", "trigger", "where"), entry.where


def parse_rate(text: str) -> Rate:
    """Read ``2000/h``: whole people a minute, hour or day.

    Raises:
        ValueError: another form.
    """
    match = _RATE.fullmatch(text)
    if not match:
        raise ValueError(
            f"{text[:40]!r} is no rate: expected people a minute, hour or day, such as 2000/h or"
            f" 50/m; {_meant(text) or 'write it so'}"
        )
    return Rate(int(match[1]), _PER[match[2]])


def _meant(text: str) -> str | None:
    """What ``2000 per hour`` is in this form; None where that is not clear."""
    match = _SPOKEN.fullmatch(text.strip().lower())
    unit = match[2][0] if match else ""
    return f"did you mean '{match[1]}/{unit}'?" if match and unit in _PER else None


def parse_stale(text: str) -> OnStale:
    """Read ``skip``, ``enter`` or ``wait(2h)``.

    Raises:
        ValueError: another form.
    """
    if text in ("skip", "enter"):
        return cast(OnStale, text)
    match = _WAIT.fullmatch(text)
    if not match:
        raise ValueError(
            f"{text[:40]!r} says not what happens: expected skip, enter or wait(2h);"
            f" {suggest(text, ('skip', 'enter')) or 'write one'}"
        )
    return parse_duration(match[1])


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """Return the form that `entry_from_json` reads; of an entry by hand alone, what it always was."""
    stale: Any = entry.on_stale_score
    if isinstance(stale, timedelta):
        stale = f"wait({format_duration(stale)})"
    again = entry.reentry
    limits = entry.admission
    return plain(
        {
            "manual": entry.manual,
            "trigger": _trigger_to_json(entry.trigger),
            "filter": entry.filter,
            "on_stale_score": stale,
            "dedupe_key": entry.dedupe_key,
            "reentry": None
            if again == Reentry()
            else {
                "policy": again.policy,
                "cooldown": again.cooldown,
                "max_entries": again.max_entries,
                "while_active": again.while_active,
            },
            "admission": None
            if limits is None
            else {
                "max_active": limits.max_active,
                "rate": None if limits.rate is None else str(limits.rate),
            },
        }
    )


def entry_from_json(data: Mapping[str, Any]) -> Entry:
    """Read what `entry_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it never wrote this.
    """
    if unknown := data.keys() - _KEYS:
        raise TypeError(f"'entry' holds {sorted(unknown)[0]!r}")
    trigger = _trigger_from_json(data["trigger"]) if "trigger" in data else None
    event = isinstance(trigger, EventTrigger)
    again = data.get("reentry")
    limits = data.get("admission")
    return Entry(
        manual=data["manual"],
        trigger=trigger,
        filter=read(data["filter"], event=event) if "filter" in data else None,
        on_stale_score=parse_stale(data["on_stale_score"]) if "on_stale_score" in data else None,
        dedupe_key=read(data["dedupe_key"], condition=False, event=event, scores=False)
        if "dedupe_key" in data
        else None,
        reentry=Reentry()
        if again is None
        else Reentry(
            policy=again["policy"],
            cooldown=duration(again.get("cooldown")),
            max_entries=again.get("max_entries"),
            while_active=again["while_active"],
        ),
        admission=None
        if limits is None
        else Admission(
            max_active=limits.get("max_active"),
            rate=parse_rate(limits["rate"]) if "rate" in limits else None,
        ),
    )


_KEYS: Final = frozenset(
    {"manual", "trigger", "filter", "on_stale_score", "dedupe_key", "reentry", "admission"}
)


def _trigger_to_json(trigger: Trigger | None) -> dict[str, Any] | None:
    match trigger:
        case EventTrigger():
            age = None if trigger.max_age == MAX_AGE else trigger.max_age
            return {"event": trigger.event, "where": trigger.where, "max_age": age}
        case SegmentTrigger():
            return {"segment": trigger.segment, "edge": "join"}
        case ScheduleTrigger():
            return {
                "schedule": trigger.cron,
                "zone": trigger.zone,
                "audience": trigger.audience or "all",
            }
        case None:
            return None


def _trigger_from_json(data: Mapping[str, Any]) -> Trigger:
    if "event" in data:
        where = read(data["where"], event=True, scores=False) if "where" in data else None
        return EventTrigger(data["event"], where, duration(data.get("max_age")) or MAX_AGE)
    if "segment" in data:
        return SegmentTrigger(data["segment"])
    audience = data["audience"]
    condition = None if audience == "all" else read(audience)
    return ScheduleTrigger(data["schedule"], data["zone"], condition)
