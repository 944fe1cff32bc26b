"""Somebody's way through a sequence in a simulation, and what the planner would have read of it.

Rows are what the planner reads; here they are values, and each fact is that of its statement: `taken`
for caps, `waited` for events that are waited for, `known` for expressions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from schedules.expression.evaluate import Known
from tasks.sequence.behavior import Person
from tasks.sequence.course import Course
from tasks.sequence.engine import Facts, Position
from tasks.sequence.planned import NOTHING_TAKEN, Standing, Taken
from tasks.sequence.standstill import holding
from tasks.sequence.taken import counts_for, turn


@dataclass(slots=True)
class Somebody:
    """A subscriber, as every sequence sees them.

    Attributes:
        events: name, when, and the mail that it is of: sequence and step.
        mails: what they were sent: the course, and when.
    """

    person: Person
    subscriber: dict[str, Any]
    topics: dict[str, bool] | None
    stopped: str | None = None
    events: list[tuple[str, datetime, str, str]] = field(default_factory=list)
    mails: list[tuple[Course, datetime]] = field(default_factory=list)
    ways: list[Way] = field(default_factory=list)


@dataclass(slots=True)
class Way:
    """Somebody's way through one sequence, as its row would have it.

    Attributes:
        due: when the planner looks; None while a mail is under way, and while they are held.
        look: the turn of that look; another one that was foretold does not count.
        trials: the arms that they came into.
    """

    who: Somebody
    course: Course
    position: Position
    due: datetime | None
    active: bool = True
    entered: bool = False
    held: bool = False
    look: int = 0
    trials: dict[str, Standing] = field(default_factory=dict)

    @property
    def mail_is_under_way(self) -> bool:
        """Whether a mail was handed over that is not over."""
        return self.active and self.due is None and not self.held


def facts(way: Way, now: datetime) -> Facts:
    """What the planner would have read of somebody."""
    who, course = way.who, way.course
    sequence, topic = course.sequence, course.sequence.topic
    opted_in = True if who.topics is None or topic is None else who.topics.get(topic)
    entered_at = way.position.entered_at
    happened = frozenset(
        name for name, at, _, _ in who.events if entered_at is None or at > entered_at
    )
    known = _known(way, now) if sequence.needs else None
    over: tuple[tuple[datetime, datetime], ...] = ()
    if sequence.pause == "freeze":
        over = tuple(span for span in course.pauses if span[1] <= now)
    return Facts(
        now,
        holding(course.pauses, now) is not None,
        who.stopped,
        opted_in,
        happened,
        known,
        words=course.words,
        taken=_taken(way, now) if course.capped else NOTHING_TAKEN,
        pauses=over,
        awaited=awaited(way),
        trials=way.trials,
        slot=course.slot,
    )


def _taken(way: Way, now: datetime) -> Taken:
    """The slots of its cap that the mails of all sequences have taken, and who comes first."""
    sequence, who = way.course.sequence, way.who
    went = tuple(at for course, at in who.mails if counts_for(sequence, course.sequence))
    others = [
        other for other in who.ways
        if other is not way and counts_for(sequence, other.course.sequence)
    ]  # fmt: skip
    mine = turn(sequence, way.position.due_at, who.person.id)
    before = (
        other for other in others
        if other.active and other.due is not None and other.due <= now
        and holding(other.course.pauses, now) is None
        and turn(other.course.sequence, other.due, who.person.id) < mine
    )  # fmt: skip
    under_way = sum(other.mail_is_under_way for other in others)
    return Taken(went, under_way, sum(1 for _ in before))


def awaited(way: Way) -> frozenset[str]:
    """The waits whose event has come: of that step's mail, else since the wait began."""
    found = set()
    for step_id, rule in way.course.waits:
        position = way.position
        began = position.started_at if position.step_id == step_id else None
        # Who was held by a pause, or looked at in vain, waits since before that.
        if began is not None and position.rule and "began" in position.rule:
            began = datetime.fromisoformat(position.rule["began"])
        for name, at, of_sequence, of in way.who.events:
            counts = began is not None and at > began
            if rule.of is not None:
                counts = (of_sequence, of) == (way.course.sequence.key, rule.of)
            if name == rule.event and counts:
                found.add(step_id)
    return frozenset(found)


def _known(way: Way, now: datetime) -> Known:
    who, needs = way.who, way.course.sequence.needs
    lasts: dict[str, datetime] = {}
    for name, at, _, _ in who.events:
        lasts[name] = max(at, lasts.get(name, at))
    counts = {
        (name, within): sum(
            1
            for event, at, _, _ in who.events
            if event == name and (not within or at > now - within)
        )
        for name, within in needs.counts
    }
    scores = {
        (name, age): Decimal(str(who.person.scores[name]))
        for name, age in needs.scores
        if name in who.person.scores
    }
    topics = who.topics
    if topics is None:
        topics = dict.fromkeys(needs.topics, True)
    return Known(now, who.subscriber, counts, lasts, scores, who.person.segments, topics)
