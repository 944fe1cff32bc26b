"""One sequence of a simulation, and the story of what happened in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from schedules.definition import SendStep, Sequence, WaitStep
from tasks.sequence.engine import Plan, Position
from tasks.sequence.planned import Words
from tasks.sequence.standstill import Spans
from tasks.sequence.taken import capped

BEGINS: Final = frozenset(
    {"handed_off", "not_sent", "waiting", "date_past", "no_date", "branched", "updated", "postponed",
     "parked", "assigned", "exited"}
)  # fmt: skip
"""Decisions by which somebody has come to a step."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A mail that the recording transport took."""

    at: datetime
    person: int
    step_id: str


@dataclass(slots=True)
class StepStory:
    """What happened at one step.

    Attributes:
        begun: people who came to it.
        mails: terminal state → mails of the step.
        reasons: why there was no mail, or not yet: gate's word → how often.
        left: reason → people who left the sequence there.
        arms: arm → people who came into it, where it is an experiment.
        standing: people who are there when the time is up.
        after: times from entry to their arrival here: the quickest, the median, the slowest.
    """

    id: str
    begun: int = 0
    mails: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    arms: Counter[str] = field(default_factory=Counter)
    standing: int = 0
    after: tuple[timedelta, timedelta, timedelta] | None = None


@dataclass(slots=True)
class Story:
    """What a simulation showed.

    Attributes:
        entered: people who came in before the time was up.
        ended: reason → people who left, by what they left with.
        hours: hour (UTC) → mails sent in it.
        sent: every mail, in the order of time.
        looks: how often the engine was asked.
        paused: when it stood still, or its stream did.
        beside: the stories of its rivals.
    """

    key: str
    start: datetime
    until: datetime
    entered: int = 0
    steps: list[StepStory] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    standing: int = 0
    hours: Counter[datetime] = field(default_factory=Counter)
    sent: list[Sent] = field(default_factory=list)
    looks: int = 0
    paused: Spans = ()
    beside: list[Story] = field(default_factory=list)


class Course:
    """A sequence that people walk through, and what is told of it.

    Args:
        sequence: as the loader read it.
        story: what happens is written into it.
        prefix: of the names of its steps where chances are drawn, so that two sequences draw their own.
        pauses: when it stands still.
        stream: when the stream of its mails does.
    """

    def __init__(
        self, sequence: Sequence, story: Story, prefix: str, pauses: Spans, stream: Spans
    ) -> None:
        self.sequence, self.story, self.prefix = sequence, story, prefix
        self.pauses, self.stream = pauses, stream
        self.capped = capped(sequence)
        self.slot: datetime | None = None  # of its throttle, for the next mail
        self.waits = [
            (step.id, step.until_event)
            for step in sequence.steps
            if isinstance(step, WaitStep) and step.until_event is not None
        ]
        # No model is asked: each mail has the template's own words, and waits for no others.
        self.words = {
            step.id: Words(None, "simulated")
            for step in sequence.steps
            if isinstance(step, SendStep) and step.personalize is not None
        }
        self._steps = {step.id: StepStory(step.id) for step in sequence.steps}
        self._after: dict[str, list[timedelta]] = {step.id: [] for step in sequence.steps}
        story.paused = tuple(sorted((*pauses, *stream)))

    def tell(self, position: Position, held: bool, made: Plan, now: datetime) -> None:
        """Count what was decided of somebody: to which steps they came, and what the gates said."""
        begun = dict.fromkeys(
            decision.step_id for decision in made.decisions
            if decision.kind in BEGINS and decision.step_id in self._steps
        )  # fmt: skip
        again = position.step_id if position.started_at is not None else None
        # Who was put off, or held by a pause, is there already.
        waits = position.started_at is None and (held or position.rule is not None)
        for step_id in begun:
            postponed = waits and step_id == position.step_id
            if step_id is not None and step_id != again and not postponed:
                self._steps[step_id].begun += 1
                self._after[step_id].append(now - (position.entered_at or now))
        for decision in made.decisions:
            step = self._steps.get(decision.step_id or "")
            if step is not None and decision.kind in ("postponed", "not_sent", "parked"):
                step.reasons[decision.reason] += 1
            if step is not None and decision.kind == "assigned":
                step.arms[str(decision.detail["arm"])] += 1
        for each in made.non_sends:
            self._steps[each.step_id].mails[each.state] += 1

    def mailed(self, person: int, step_id: str, state: str, at: datetime) -> None:
        """Count how a mail ended."""
        self._steps[step_id].mails[state] += 1
        if state == "sent":
            self.story.sent.append(Sent(at, person, step_id))
            self.story.hours[at.replace(minute=0, second=0, microsecond=0)] += 1

    def left(self, step_id: str | None, reason: str) -> None:
        """Count somebody who left."""
        self.story.ended[reason] += 1
        if step_id in self._steps:
            self._steps[step_id].left[reason] += 1

    def close(self, standing: Iterable[str | None]) -> None:
        """Count who stands where when the time is up."""
        for step_id in standing:
            self.story.standing += 1
            if step_id in self._steps:
                self._steps[step_id].standing += 1
        for step_id, spans in self._after.items():
            if spans:
                spans.sort()
                self._steps[step_id].after = (spans[0], spans[len(spans) // 2], spans[-1])
        self.story.steps = list(self._steps.values())
