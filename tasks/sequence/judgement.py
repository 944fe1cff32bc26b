"""What expressions decide on the way: which branch, what an update sets, who leaves by a rule."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from schedules.definition import BranchStep, ExitRule, UpdateStep
from schedules.durations import format_duration
from schedules.expression import Expression
from schedules.expression.dates import read_date
from schedules.expression.evaluate import LARGEST, STALE, Known, evaluate, holds
from tasks.sequence.frozen import frozen_since
from tasks.sequence.planned import Rest, Update, Wait
from tasks.sequence.walk import Walk


def choose(walk: Walk, step: BranchStep) -> str:
    """Return the way that a subscriber takes at a branch."""
    for number, case in enumerate(step.cases, 1):
        answer = holds(case.condition.root, walk.known)
        if answer is STALE:
            if step.on_stale is None:
                raise ValueError(f"branch {step.id!r} met a stale score without on_stale")
            asked = _stale(case.condition, walk.known)
            said = f"{asked} is missing or too old"
            walk.say("branched", step.id, "on_stale", to=step.on_stale, case=number, said=said)
            return step.on_stale
        if answer:
            said = _short(case.condition)
            walk.say("branched", step.id, "if", to=case.next, case=number, said=said)
            return case.next
    walk.say("branched", step.id, "else", to=step.next, said="no case holds")
    return step.next


def change(walk: Walk, step: UpdateStep) -> Rest:
    """Return the rest behind an update: due as before, so that the next look goes on from it."""
    known = walk.known if any(isinstance(v, Expression) for _, v in step.attributes) else None
    attributes = {
        name: storable(evaluate(value.root, known))
        if isinstance(value, Expression) and known is not None
        else value
        for name, value in step.attributes
    }
    topics = dict(step.topics)
    walk.update = Update(step.id, attributes, topics)
    # Names alone: a value may be what the subscriber would not want to read in a log.
    walk.say("updated", step.id, "update", names=", ".join([*attributes, *topics]))
    return Wait(step.id, walk.due_at, {"kind": "updated"})


def leaves_by(walk: Walk, rule: ExitRule) -> str | None:
    """Return why this rule ends the enrollment, in words, or None."""
    facts, entered_at = walk.facts, walk.position.entered_at
    if rule.event is not None:
        return f"{rule.event} happened" if rule.event in facts.happened else None
    if rule.when is not None:
        return _short(rule.when) if holds(rule.when.root, walk.known) is True else None
    if rule.after is None or entered_at is None or _inside(walk, entered_at) < rule.after:
        return None
    return f"entered {format_duration(rule.after)} ago or more"


def date_of(walk: Walk, attribute: str) -> tuple[date | datetime | None, str]:
    """Return the date that an attribute holds, or None and why."""
    value = walk.known.subscriber.get(attribute)
    return read_date(value), "missing" if value is None else "unreadable"


def _inside(walk: Walk, entered_at: datetime) -> timedelta:
    return walk.facts.now - entered_at - frozen_since(walk, entered_at)


def _short(condition: Expression) -> str:
    """A condition as one line of a log."""
    line = " ".join(condition.source.split())
    return line if len(line) <= 120 else line[:119] + "…"


def _stale(condition: Expression, known: Known) -> str:
    """The first score or segment of a condition that is not there."""
    needs = condition.needs
    scores = sorted(name for name, age in needs.scores if (name, age) not in known.scores)
    segments = sorted(needs.segments - known.segments.keys())
    return f"score {scores[0]}" if scores else f"segment {segments[0]}"


def storable(value: Any) -> Any:
    """Return a value as JSON holds it; a number beyond all reason is null, as it is in arithmetic."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        return [storable(each) for each in value]
    if isinstance(value, dict):
        return {name: storable(each) for name, each in value.items()}
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        if not -LARGEST < value < LARGEST:
            return None
        return int(value) if value == int(value) else float(value)
    return value
