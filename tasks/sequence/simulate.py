"""Sequences on a virtual clock: the planner's own engine, a relay that only writes down.

What a step does, which gate refuses and when a wait ends is decided by `tasks.sequence.engine`, where
that leaves an enrollment by the planner's own `resting_of`, and who comes first at a cap by `taken`.
Here is the rest of the world: a clock that jumps to whatever comes next, mails that arrive, and people
who do with them what `Behavior` declares.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from schedules.definition import Sequence as Definition
from schedules.definition import WaitStep
from tasks.sequence.behavior import STOPPED, Behavior, Person, chances, outcome_of, reactions
from tasks.sequence.course import Course, Sent, StepStory, Story
from tasks.sequence.engine import Facts, HandOff, Position, plan
from tasks.sequence.judgement import leaves_by
from tasks.sequence.limited import slot_after
from tasks.sequence.planned import Standing
from tasks.sequence.standstill import Pause, goes_at, resumed, spans_of
from tasks.sequence.store import resting_of
from tasks.sequence.taken import turn
from tasks.sequence.walk import Walk
from tasks.sequence.way import Somebody, Way, awaited, facts

__all__ = ["Beside", "Pause", "Sent", "StepStory", "Story", "simulate"]

LIFETIME: Final = timedelta(hours=72)
SLOWEST: Final = 30.0
"""Seconds from hand-off to the relay's reply, at most; evenly from 0."""

_ENDED_BY: Final = {"sent": None, "failed": "refused", "expired": "expired"}


@dataclass(frozen=True, slots=True)
class Beside:
    """Another sequence that the same people enter, so much later."""

    sequence: Definition
    after: timedelta = timedelta()


def simulate(
    sequence: Definition,
    people: Sequence[Person],
    *,
    start: datetime,
    days: int,
    seed: int,
    behavior: Behavior | None = None,
    over: timedelta = timedelta(),
    beside: Sequence[Beside] = (),
    pauses: Sequence[Pause] = (),
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
        beside: other sequences that they enter too, and whose mails count for the same caps.
        pauses: of these sequences, and of streams.
    """
    world = _World(start, start + timedelta(days=days), seed, behavior or Behavior(), pauses)
    return world.run([Beside(sequence), *beside], people, over)


class _World:
    def __init__(
        self,
        start: datetime,
        until: datetime,
        seed: int,
        behavior: Behavior,
        pauses: Sequence[Pause],
    ) -> None:
        self._start, self._until, self._seed, self._behavior = start, until, seed, behavior
        self._pauses = pauses
        self._turn = 0
        # (when, who first, turn, what, whom, about what): the turn keeps the order of equals.
        self._next: list[tuple[datetime, tuple[Any, ...], int, str, Any, Any]] = []

    def run(self, rivals: Sequence[Beside], people: Sequence[Person], over: timedelta) -> Story:
        all_ = [
            Somebody(
                each, dict(each.subscriber), None if each.topics is None else dict(each.topics)
            )
            for each in people
        ]
        courses: list[Course] = []
        for rival in rivals:
            course = self._course(rival.sequence, first=not courses)
            courses.append(course)
            for number, who in enumerate(all_):
                at = self._start + rival.after + over * (number / len(all_))
                # Nobody enters a paused sequence; who asks to waits.
                at = resumed(course.pauses, at)
                if at > self._until:
                    break
                self._enters(who, course, at)
        while self._next and self._next[0][0] <= self._until:
            at, _, turn_, what, whom, about = heapq.heappop(self._next)
            if what == "event":
                self._happen(whom, at, *about)
            elif not whom.active or (what == "due" and turn_ != whom.look):
                continue  # gone, or looked at earlier: an event ended the wait
            elif what == "due":
                self._look(whom, at)
            else:
                self._deliver(whom, at, about)
        for course in courses:
            there = (way for who in all_ for way in who.ways if way.course is course)
            course.close(way.position.step_id for way in there if way.active and way.entered)
        story = courses[0].story
        story.beside = [course.story for course in courses[1:]]
        return story

    def _course(self, sequence: Definition, *, first: bool) -> Course:
        own = (pause for pause in self._pauses if pause.sequence == sequence.key)
        stream = (
            pause for pause in self._pauses
            # Each class has the stream of its name.
            if pause.sequence is None and pause.stream == sequence.class_
        )  # fmt: skip
        story = Story(sequence.key, self._start, self._until)
        prefix = "" if first else f"{sequence.key}/"
        spans = spans_of(own, self._start), spans_of(stream, self._start)
        return Course(sequence, story, prefix, *spans)

    def _enters(self, who: Somebody, course: Course, at: datetime) -> None:
        id_, zone = who.person.id, who.person.zone
        position = Position(id_, id_, 1, None, None, at, zone=zone, entered_at=at)
        way = Way(who, course, position, at)
        who.ways.append(way)
        self._push(at, "due", way, None)

    def _push(self, at: datetime, what: str, whom: Any, about: Any) -> None:
        self._turn += 1
        first: tuple[Any, ...] = (0,)
        if what == "due":
            whom.look = self._turn
            # As in a batch of the planner: what happened is known, and who wants a slot is in turn.
            sequence, position = whom.course.sequence, whom.position
            mine = turn(sequence, position.due_at, position.enrollment_id)
            first = (1, *mine) if whom.course.capped else (2,)
        heapq.heappush(self._next, (at, first, self._turn, what, whom, about))

    def _look(self, way: Way, now: datetime) -> None:
        """What the planner does with a due enrollment."""
        course, who = way.course, way.who
        if not way.entered:
            if who.stopped is not None:  # who may get no mail does not come in
                way.active = False
                return
            way.entered = True
            course.story.entered += 1
        course.story.looks += 1
        made = plan(course.sequence, way.position, facts(way, now), message_lifetime=LIFETIME)
        course.slot = slot_after(course.sequence, course.slot, way.position, made, now)
        course.tell(way.position, way.held, made, now)
        resting = resting_of(who.person.id, made)
        way.position = replace(
            way.position,
            step_id=resting.step_id or way.position.step_id,
            started_at=now if resting.started else None,
            due_at=resting.due_at or resting.parked_from or now,
            rule=resting.wait_rule,
            outcome=None,
            outcome_reason=None,
        )
        way.due, way.held = resting.due_at, resting.parked_from is not None
        way.trials |= {each.step_id: Standing(each.arm) for each in made.assigned}
        if made.update is not None:
            who.subscriber |= made.update.attributes
            if made.update.topics:
                who.topics = (who.topics or {}) | dict(made.update.topics)
        if resting.end_reason is not None:
            self._leave(way, resting.end_reason)
        elif isinstance(made.rest, HandOff):
            self._hand_off(way, made.rest, now)
        elif way.held:
            self._push(resumed(course.pauses, now), "due", way, None)
        elif resting.due_at is not None:
            self._push(max(resting.due_at, now), "due", way, None)

    def _hand_off(self, way: Way, rest: HandOff, now: datetime) -> None:
        course = way.course
        draws = chances(self._seed, way.who.person.id, course.prefix + rest.step_id)
        at = goes_at(
            now + timedelta(seconds=SLOWEST * draws[6]),
            now,
            rest.expires_at,
            rest.allowed,
            course.pauses,
            course.stream,
            freeze=course.sequence.pause == "freeze",
        )
        if at is None:
            expired = (rest.step_id, "expired", False, draws)
            self._push(resumed(course.pauses, rest.expires_at), "mail", way, expired)
            return
        self._push(at, "mail", way, (rest.step_id, *outcome_of(self._behavior, draws), draws))

    def _deliver(self, way: Way, at: datetime, about: Any) -> None:
        """The reply of the relay: it is written down, and its reader does something."""
        step_id, state, bounced, draws = about
        who, course = way.who, way.course
        course.mailed(who.person.id, step_id, state, at)
        if state == "sent":
            who.mails.append((course, at))
            name = course.prefix + step_id
            for when, event in reactions(
                self._behavior, self._seed, who.person.id, name, draws, at
            ):
                self._push(when, "event", who, (event, course.sequence.key, step_id))
        if bounced:
            who.stopped = "hard_bounce"
        way.position = replace(
            way.position,
            due_at=at,
            outcome=state,
            outcome_reason=_ENDED_BY[state],
            hard_bounce=bounced,
        )
        way.due = at
        self._push(at, "due", way, None)

    def _happen(self, who: Somebody, at: datetime, name: str, key: str, step_id: str) -> None:
        """An event, which may end a wait, or the way of somebody at once: a stop, an exit rule."""
        who.events.append((name, at, key, step_id))
        if name == STOPPED:
            who.stopped = STOPPED
        for way in who.ways:
            if not way.active or not way.entered:
                continue
            if name == STOPPED:
                self._leave(way, STOPPED)
            else:
                self._heard(way, at, name)

    def _heard(self, way: Way, at: datetime, name: str) -> None:
        sequence = way.course.sequence
        heard = Facts(at, happened=frozenset((name,)))
        walk = Walk(sequence, way.position, heard, LIFETIME, at, spread=False)
        for rule in sequence.exits:
            if rule.event == name and leaves_by(walk, rule) is not None:
                self._leave(way, rule.reason)
                return
        here = sequence.step(way.position.step_id or "")
        waits = isinstance(here, WaitStep) and way.position.started_at is not None
        # Who is held is looked at when the pause is over.
        if waits and not way.held and here is not None and here.id in awaited(way):
            way.due = at
            self._push(at, "due", way, None)

    def _leave(self, way: Way, reason: str) -> None:
        way.active = False
        way.course.left(way.position.step_id, reason)
