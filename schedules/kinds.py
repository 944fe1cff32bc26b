"""The kinds of steps, and the rules by which people leave; values without behaviour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import time, timedelta
from typing import Literal, TypeAlias

from schedules.arms import ExperimentStep
from schedules.expression import Expression, Needs
from schedules.personal import Personalize

OnLate: TypeAlias = Literal["send", "next_window", "skip", "exit"]
Plain: TypeAlias = str | int | float | bool | None
"""A value that an attribute can be set to."""


@dataclass(frozen=True, slots=True)
class SendStep:
    """One mail. ``on_fail`` is ``next``, ``exit`` or the id of a step."""

    id: str
    template: str
    next: str | None = None
    on_fail: str = "next"
    max_lateness: timedelta | None = None
    on_late: OnLate | None = None
    personalize: Personalize | None = None


@dataclass(frozen=True, slots=True)
class UntilDate:
    """The local date that an attribute holds, ``offset`` calendar days on, at ``at`` o'clock there.

    ``missing``: what becomes of those whose attribute holds no date.
    """

    attribute: str
    at: time
    missing: Literal["skip", "exit"]
    offset: int = 0


@dataclass(frozen=True, slots=True)
class UntilEvent:
    """An event that is waited for, for ``timeout`` at most; then the way goes on to ``on_timeout``.

    Attributes:
        event: its name, such as ``email.clicked``.
        of: the id of a send step whose mail it must be about; then it counts from the entry on, else
            from when the wait began.
        ignore_bots: events that a machine caused do not count.
        on_timeout: None where the way ends then.
    """

    event: str
    timeout: timedelta
    of: str | None = None
    ignore_bots: bool = False
    on_timeout: str | None = None


@dataclass(frozen=True, slots=True)
class WaitStep:
    """Elapsed time (``delay``), local dates (``calendar_days``, then ``at``), ``until_date``, or an event.

    ``until_event`` goes on with ``next`` when that event comes, with ``until_event.on_timeout`` when
    it does not.
    """

    id: str
    next: str | None = None
    delay: timedelta | None = None
    calendar_days: int | None = None
    at: time | None = None
    until_date: UntilDate | None = None
    until_event: UntilEvent | None = None

    def __post_init__(self) -> None:
        ways = (self.delay, self.calendar_days, self.until_date, self.until_event)
        if sum(way is not None for way in ways) != 1:
            raise ValueError(
                f"wait {self.id!r} has none or several of delay, calendar_days, until_date and"
                " until_event: expected one"
            )


@dataclass(frozen=True, slots=True)
class Case:
    """One way on from a branch, for those of whom ``condition`` holds."""

    condition: Expression
    next: str


@dataclass(frozen=True, slots=True)
class BranchStep:
    """The first case that holds decides; none: ``next``, which the file calls ``else``.

    ``on_stale`` is the way of those whose case needs a score or segment that is missing or too old.
    """

    id: str
    cases: tuple[Case, ...]
    next: str
    on_stale: str | None = None

    def __post_init__(self) -> None:
        if self.on_stale is None and any(
            case.condition.needs.stale_at is not None for case in self.cases
        ):
            raise ValueError(f"branch {self.id!r} asks for scores or segments: expected on_stale")


@dataclass(frozen=True, slots=True)
class UpdateStep:
    """Attributes that are set, to a value or to what an expression gives; topics in or out."""

    id: str
    next: str | None = None
    attributes: tuple[tuple[str, Plain | Expression], ...] = ()
    topics: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class WebhookStep:
    """A call to another system, put into an outbox: ``fields`` of the subscriber go to ``to``."""

    id: str
    to: str
    next: str | None = None
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExitStep:
    """The end of the way, with its reason."""

    id: str
    reason: str

    @property
    def next(self) -> None:
        """Nothing follows an exit."""


Step: TypeAlias = (
    SendStep | WaitStep | BranchStep | ExperimentStep | UpdateStep | WebhookStep | ExitStep
)


@dataclass(frozen=True, slots=True)
class ExitRule:
    """Who leaves at the next hand-off: one of the three is set.

    Attributes:
        reason: with which they leave.
        event: it was recorded after they entered.
        when: it holds.
        after: they entered that long ago.
    """

    reason: str
    event: str | None = None
    when: Expression | None = None
    after: timedelta | None = None

    def __post_init__(self) -> None:
        if sum(way is not None for way in (self.event, self.when, self.after)) != 1:
            raise ValueError(
                f"exit rule {self.reason!r} has none or several of event, when and after: expected"
                " one"
            )


def successors(step: Step) -> tuple[str, ...]:
    """Return the ids a step can lead to, without repetition; none where the way ends."""
    return tuple(dict.fromkeys(target for _, target in ways(step)))


def ways(step: Step) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield each way on: its path within the step of a file, and the id that it leads to."""
    if isinstance(step, BranchStep):
        for index, case in enumerate(step.cases):
            yield ("branch", index, "next"), case.next
        yield ("branch", len(step.cases), "else"), step.next
        if step.on_stale is not None:
            yield ("on_stale",), step.on_stale
        return
    if isinstance(step, ExperimentStep):
        for arm in step.arms:
            yield ("paths", arm.name), arm.next
        return
    event = step.until_event if isinstance(step, WaitStep) else None
    if step.next is not None:
        yield ("paths", "event") if event else ("next",), step.next
    if event is not None and event.on_timeout is not None:
        yield ("paths", "timeout"), event.on_timeout
    if isinstance(step, SendStep) and step.on_fail not in ("next", "exit"):
        yield ("on_fail",), step.on_fail


def needs_of(step: Step | ExitRule) -> Needs:
    """Return what must be known of a subscriber before that step or rule."""
    found = Needs()
    match step:
        case BranchStep(cases=cases):
            for case in cases:
                found |= case.condition.needs
        case UpdateStep(attributes=attributes):
            for _, value in attributes:
                if isinstance(value, Expression):
                    found |= value.needs
        case WaitStep(until_date=UntilDate()) | WebhookStep(fields=(_, *_)):
            found |= Needs(subscriber=True)
        case ExitRule(when=Expression(needs=needs)):
            found |= needs
    return found
