"""A sequence on a virtual clock: the planner's own engine, a relay that only writes down.

What a step does, which gate refuses and when a wait ends is decided by `tasks.sequence.engine`, and
where that leaves an enrollment by the planner's own `resting_of`. Here is the rest of the world: a
clock that jumps to whatever comes next, mails that arrive, and people who do with them what
`Behavior` declares.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from schedules.definition import SendStep, WaitStep
from schedules.definition import Sequence as Definition
from schedules.expression.evaluate import Known
from tasks.sequence.behavior import STOPPED, Behavior, Person, chances, outcome_of, reactions
from tasks.sequence.engine import Facts, HandOff, Plan, Position, plan
from tasks.sequence.judgement import leaves_by
from tasks.sequence.planned import Standing, Taken, Words
from tasks.sequence.store import resting_of
from tasks.sequence.walk import Walk

LIFETIME: Final = timedelta(hours=72)
SLOWEST: Final = 30.0
"""Seconds from hand-off to the relay's reply, at most; evenly from 0."""

_ENDED_BY: Final = {"sent": None, "failed": "refused", "expired": "expired"}


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


@dataclass(slots=True)
class _Walker:
    """Somebody under way, as rows would have it."""

    person: Person
    position: Position
    subscriber: dict[str, Any]
    topics: dict[str, bool] | None
    active: bool = True
    stopped: str | None = None
    events: list[tuple[str, datetime, str]] = field(default_factory=list)
    look: int = 0
    mailed: list[datetime] = field(default_factory=list)
    trials: dict[str, Standing] = field(default_factory=dict)


def simulate(
    sequence: Definition,
    people: Sequence[Person],
    *,
    start: datetime,
    days: int,
    seed: int,
    behavior: Behavior | None = None,
    over: timedelta = timedelta(),
) -> Story:
    """Let people walk through a sequence; the same arguments give the same story.

    Args:
        sequence: as the loader read it.
        people: who enter.
        start: when the first one does.
        days: how long to look.
        seed: of everything that is left to chance.
        behavior: what becomes of mails; None: each is sent, and nobody reacts.
        over: people enter evenly over this time; zero: all at once.
    """
    return _World(sequence, start, start + timedelta(days=days), seed, behavior or Behavior()).run(
        people, over
    )


class _World:
    def __init__(
        self, sequence: Definition, start: datetime, until: datetime, seed: int, behavior: Behavior
    ) -> None:
        self._sequence, self._seed, self._behavior = sequence, seed, behavior
        self._story = Story(sequence.key, start, until)
        self._steps = {step.id: StepStory(step.id) for step in sequence.steps}
        # No model is asked: each mail has the template's own words, and waits for no others.
        self._worded = {
            step.id: Words(None, "simulated")
            for step in sequence.steps
            if isinstance(step, SendStep) and step.personalize is not None
        }
        self._after: dict[str, list[timedelta]] = {step.id: [] for step in sequence.steps}
        self._turn = 0
        # (when, turn, what, whom, about what): the turn keeps the order of equal times.
        self._next: list[tuple[datetime, int, str, _Walker, Any]] = []

    def run(self, people: Sequence[Person], over: timedelta) -> Story:
        story = self._story
        walkers = []
        for number, person in enumerate(people):
            at = story.start + over * (number / len(people))
            if at > story.until:
                break
            position = Position(
                person.id, person.id, 1, None, None, at, zone=person.zone, entered_at=at
            )
            topics = None if person.topics is None else dict(person.topics)
            walker = _Walker(person, position, dict(person.subscriber), topics)
            walkers.append(walker)
            self._push(at, "due", walker, None)
        story.entered = len(walkers)
        while self._next and self._next[0][0] <= story.until:
            at, turn, what, walker, about = heapq.heappop(self._next)
            if what == "event":
                self._happen(walker, at, *about)
            elif not walker.active or (what == "due" and turn != walker.look):
                continue  # gone, or looked at earlier: an event ended the wait
            elif what == "due":
                self._look(walker, at)
            else:
                self._deliver(walker, at, about)
        self._close(walkers)
        return story

    def _push(self, at: datetime, what: str, walker: _Walker, about: Any) -> None:
        self._turn += 1
        if what == "due":
            walker.look = self._turn
        heapq.heappush(self._next, (at, self._turn, what, walker, about))

    def _look(self, walker: _Walker, now: datetime) -> None:
        """What the planner does with a due enrollment."""
        self._story.looks += 1
        made = plan(
            self._sequence, walker.position, self._facts(walker, now), message_lifetime=LIFETIME
        )
        self._tell(walker, made, now)
        resting = resting_of(walker.person.id, made)
        walker.position = replace(
            walker.position,
            step_id=resting.step_id or walker.position.step_id,
            started_at=now if resting.started else None,
            due_at=resting.due_at or now,
            rule=resting.wait_rule,
            outcome=None,
            outcome_reason=None,
        )
        for each in made.assigned:
            walker.trials[each.step_id] = Standing(each.arm)
        if made.update is not None:
            walker.subscriber |= made.update.attributes
            if made.update.topics:
                walker.topics = (walker.topics or {}) | dict(made.update.topics)
        if resting.end_reason is not None:
            self._leave(walker, resting.end_reason)
        elif isinstance(made.rest, HandOff):
            self._hand_off(walker, made.rest, now)
        elif resting.due_at is not None:
            self._push(max(resting.due_at, now), "due", walker, None)

    def _facts(self, walker: _Walker, now: datetime) -> Facts:
        """What the planner would have read of somebody."""
        topic = self._sequence.topic
        opted_in = True if walker.topics is None or topic is None else walker.topics.get(topic)
        happened = frozenset(name for name, _, _ in walker.events)
        known = self._known(walker, now) if self._sequence.needs else None
        return Facts(
            now, False, walker.stopped, opted_in, happened, known,
            words=self._worded, taken=Taken(tuple(walker.mailed)), awaited=self._awaited(walker),
            trials=walker.trials,
        )  # fmt: skip

    def _awaited(self, walker: _Walker) -> frozenset[str]:
        """The waits whose event has come: of that step's mail, else since the wait began."""
        found = set()
        for step in self._sequence.steps:
            if not isinstance(step, WaitStep) or step.until_event is None:
                continue
            rule, position = step.until_event, walker.position
            began = position.started_at if position.step_id == step.id else None
            for name, at, of in walker.events:
                counts = of == rule.of if rule.of is not None else began is not None and at > began
                if name == rule.event and counts:
                    found.add(step.id)
        return frozenset(found)

    def _known(self, walker: _Walker, now: datetime) -> Known:
        needs = self._sequence.needs
        lasts: dict[str, datetime] = {}
        for name, at, _ in walker.events:
            lasts[name] = max(at, lasts.get(name, at))
        counts = {
            (name, within): sum(
                1
                for event, at, _ in walker.events
                if event == name and (not within or at > now - within)
            )
            for name, within in needs.counts
        }
        scores = {
            (name, age): Decimal(str(walker.person.scores[name]))
            for name, age in needs.scores
            if name in walker.person.scores
        }
        topics = walker.topics
        if topics is None:
            topics = dict.fromkeys(needs.topics, True)
        return Known(now, walker.subscriber, counts, lasts, scores, walker.person.segments, topics)

    def _hand_off(self, walker: _Walker, rest: HandOff, now: datetime) -> None:
        draws = chances(self._seed, walker.person.id, rest.step_id)
        ready = now + timedelta(seconds=SLOWEST * draws[6])
        # As ARM has it: within the spans, or at the start of the next one.
        at = next((max(ready, begin) for begin, end in rest.allowed if ready < end), None)
        if at is None or at >= rest.expires_at:
            self._push(rest.expires_at, "mail", walker, (rest.step_id, "expired", False, draws))
            return
        self._push(at, "mail", walker, (rest.step_id, *outcome_of(self._behavior, draws), draws))

    def _deliver(self, walker: _Walker, at: datetime, about: Any) -> None:
        """The reply of the relay: it is written down, and its reader does something."""
        step_id, state, bounced, draws = about
        self._steps[step_id].mails[state] += 1
        if state == "sent":
            self._story.sent.append(Sent(at, walker.person.id, step_id))
            self._story.hours[at.replace(minute=0, second=0, microsecond=0)] += 1
            walker.mailed.append(at)
            for when, name in reactions(
                self._behavior, self._seed, walker.person.id, step_id, draws, at
            ):
                self._push(when, "event", walker, (name, step_id))
        if bounced:
            walker.stopped = "hard_bounce"
        walker.position = replace(
            walker.position,
            due_at=at,
            outcome=state,
            outcome_reason=_ENDED_BY[state],
            hard_bounce=bounced,
        )
        self._push(at, "due", walker, None)

    def _happen(self, walker: _Walker, at: datetime, name: str, step_id: str) -> None:
        """An event, which may end a wait, or the way of somebody at once: a stop, an exit rule."""
        walker.events.append((name, at, step_id))
        if not walker.active:
            return
        if name == STOPPED:
            walker.stopped = STOPPED
            self._leave(walker, STOPPED)
            return
        facts = Facts(at, happened=frozenset((name,)))
        walk = Walk(self._sequence, walker.position, facts, LIFETIME, at, spread=False)
        for rule in self._sequence.exits:
            if rule.event == name and leaves_by(walk, rule) is not None:
                self._leave(walker, rule.reason)
                return
        here = self._sequence.step(walker.position.step_id or "")
        waits = isinstance(here, WaitStep) and walker.position.started_at is not None
        if waits and here is not None and here.id in self._awaited(walker):
            self._push(at, "due", walker, None)

    def _leave(self, walker: _Walker, reason: str) -> None:
        walker.active = False
        self._story.ended[reason] += 1
        step = walker.position.step_id
        if step in self._steps:
            self._steps[step].left[reason] += 1

    def _tell(self, walker: _Walker, made: Plan, now: datetime) -> None:
        """Count what was decided: who came to which step, and what the gates said."""
        begun = dict.fromkeys(
            decision.step_id for decision in made.decisions
            if decision.kind in _BEGINS and decision.step_id in self._steps
        )  # fmt: skip
        again = walker.position.step_id if walker.position.started_at is not None else None
        waits = walker.position.rule is not None and walker.position.started_at is None
        for step_id in begun:
            postponed = waits and step_id == walker.position.step_id
            if step_id is not None and step_id != again and not postponed:
                self._steps[step_id].begun += 1
                entered_at = walker.position.entered_at or now
                self._after[step_id].append(now - entered_at)
        for decision in made.decisions:
            step = self._steps.get(decision.step_id or "")
            if step is not None and decision.kind in ("postponed", "not_sent", "parked"):
                step.reasons[decision.reason] += 1
            if step is not None and decision.kind == "assigned":
                step.arms[str(decision.detail["arm"])] += 1
        for each in made.non_sends:
            self._steps[each.step_id].mails[each.state] += 1

    def _close(self, walkers: Iterable[_Walker]) -> None:
        story = self._story
        for walker in walkers:
            if walker.active:
                story.standing += 1
                step = walker.position.step_id
                if step in self._steps:
                    self._steps[step].standing += 1
        for step_id, spans in self._after.items():
            if spans:
                spans.sort()
                self._steps[step_id].after = (spans[0], spans[len(spans) // 2], spans[-1])
        story.steps = list(self._steps.values())


_BEGINS: Final = frozenset(
    {"handed_off", "not_sent", "waiting", "date_past", "no_date", "branched", "updated", "postponed",
     "exited", "assigned"}
)  # fmt: skip
"""Decisions by which somebody has come to a step."""
