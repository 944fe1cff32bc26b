"""What happens next to a due enrollment: pure, with the clock as a value.

`plan` walks from where the enrollment stands to its next resting place. On the way a mail that a
gate refuses becomes a `NonSend`; the way ends in exactly one `Rest`. The caller writes both, and
the decisions, in the transaction that locked the enrollment.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from schedules.definition import (
    BranchStep,
    ExitStep,
    ExperimentStep,
    SendStep,
    Sequence,
    UntilDate,
    UpdateStep,
    WaitStep,
    WebhookStep,
)
from schedules.localtime import TZDATA_VERSION, calendar_wall, local, resolve
from tasks.sequence.decisions import Decision
from tasks.sequence.frozen import freeze, thaw
from tasks.sequence.gates import GATES, lateness_of
from tasks.sequence.hooks import call, came, wait_for
from tasks.sequence.judgement import change, choose, date_of
from tasks.sequence.limited import allowed
from tasks.sequence.personal import words_of
from tasks.sequence.planned import (
    Await,
    Exit,
    Facts,
    HandOff,
    NonSend,
    Outcome,
    Park,
    Plan,
    Position,
    Postpone,
    Rest,
    Update,
    Wait,
)
from tasks.sequence.trial import assign
from tasks.sequence.walk import Walk

__all__ = [
    "GATES", "Await", "Decision", "Exit", "Facts", "HandOff", "NonSend", "Outcome", "Park", "Plan",
    "Position", "Postpone", "Rest", "Update", "Wait", "plan",
]  # fmt: skip

MESSAGE_LIFETIME: Final = timedelta(hours=72)

_GOES_ON: Final = frozenset({"sent", "sent_assumed", "held_out", "capped", "late"})
_LEAVES: Final = frozenset({"suppressed", "cancelled"})
_FAILS: Final = frozenset({"failed", "expired"})


def plan(
    sequence: Sequence,
    position: Position,
    facts: Facts,
    *,
    message_lifetime: timedelta = MESSAGE_LIFETIME,
) -> Plan:
    """Return what happens to a due enrollment now.

    Lateness of a send counts from ``position.due_at``, also behind a wait that ended then. A delay
    counts from now, so that two mails never stand closer than the file says, however late the first.

    Raises:
        ValueError: an outcome that is no terminal state, or a definition that leads in a circle.
    """
    rule = position.rule if position.started_at is None else None
    postponed = rule is not None and rule.get("kind") == "postponed"
    due_at = datetime.fromisoformat(rule["due_at"]) if rule and postponed else position.due_at
    walk = Walk(sequence, position, facts, message_lifetime, due_at, spread=not postponed)
    way = freeze(walk) or thaw(walk) or _from_here(walk)
    begun: set[str] = set()
    while isinstance(way, str):
        if way in begun:
            raise ValueError(f"sequence {sequence.key!r} leads in a circle at {way!r}: validate it")
        begun.add(way)
        way = _take(walk, way)
    return Plan(
        way,
        tuple(walk.non_sends),
        tuple(walk.decisions),
        walk.update,
        tuple(walk.calls),
        tuple(walk.assigned),
    )


def _take(walk: Walk, step_id: str) -> str | Rest:
    """Return what comes of a step that is begun now."""
    step = walk.sequence.step(step_id)
    if step_id in walk.position.passed and not isinstance(
        step, BranchStep | ExperimentStep | ExitStep | None
    ):
        walk.say("passed", step_id, "edit")
        return walk.onward(step_id, step.next)
    match step:
        case SendStep() as step:
            return _send(walk, step)
        case WaitStep() as step:
            return _wait(walk, step)
        case BranchStep() as step:
            return choose(walk, step)
        case ExperimentStep() as step:
            return assign(walk, step)
        case UpdateStep() as step:
            return change(walk, step)
        case WebhookStep() as step:
            return call(walk, step)
        case ExitStep(reason=reason):
            return walk.leave(step_id, reason)
        case None:
            return walk.leave(step_id, "step_deleted")


def _from_here(walk: Walk) -> str | Rest:
    """Return the step to begin, or the rest that the outcome of the present step leads to."""
    position = walk.position
    if position.step_id is None:
        return walk.sequence.first
    step = walk.sequence.step(position.step_id)
    edited = position.rule is not None and position.rule.get("kind") == "edited"
    if position.started_at is not None and position.rule is not None and edited:
        # The mail of a step that an edit took away: its end leads on as the edit said.
        on_fail = position.rule["fails"]
        step = SendStep(position.step_id, "", next=position.rule["to"], on_fail=on_fail)
    if step is None or position.started_at is None:
        return position.step_id
    if isinstance(step, WaitStep) and step.until_event is not None:
        return came(walk, step, step.until_event)
    if not isinstance(step, SendStep):
        began = isinstance(step, WaitStep | UpdateStep)
        return walk.onward(step.id, step.next) if began else step.id
    outcome, reason = position.outcome, position.outcome_reason
    if outcome is None:
        return Await(step.id)
    if position.hard_bounce:
        return walk.leave(step.id, "hard_bounce", outcome=outcome)
    if outcome in _LEAVES:
        return walk.leave(step.id, reason or outcome, outcome=outcome)
    if outcome not in _GOES_ON and outcome not in _FAILS:
        raise ValueError(f"{outcome!r} is no terminal state of a message: expected one of Outcome")
    if outcome in _FAILS and step.on_fail == "exit":
        return walk.leave(step.id, outcome, because=reason)
    if outcome not in ("sent", "sent_assumed"):
        walk.say("went_on", step.id, outcome, because=reason)
    if outcome in _FAILS and step.on_fail != "next":
        return step.on_fail
    if edited and step.next is None and position.rule is not None:
        return walk.leave(step.id, position.rule["reason"])
    return walk.onward(step.id, step.next)


def _wait(walk: Walk, step: WaitStep) -> str | Rest:
    """Return the wait, or where the way goes on for want of a date."""
    now = walk.facts.now
    rule: dict[str, Any]
    if step.delay is not None:
        until = now + step.delay
        rule = {"kind": "delay", "seconds": int(step.delay.total_seconds())}
    elif step.until_event is not None:
        return wait_for(walk, step, step.until_event)
    elif step.until_date is not None:
        return _until_date(walk, step, step.until_date)
    else:
        zone = walk.zone(step.id)
        days = step.calendar_days or 0
        wall = calendar_wall(now, zone, days, step.at)
        until = resolve(wall, zone)
        if until <= now:  # `calendar_days: 0` after that time of day
            wall += timedelta(days=1)
            until = resolve(wall, zone)
        rule = {"kind": "calendar_days", "days": days, **_rule(wall, zone)}
    walk.say("waiting", step.id, str(rule["kind"]), until=until.isoformat(), **_without_kind(rule))
    return Wait(step.id, until, rule)


def _until_date(walk: Walk, step: WaitStep, rule: UntilDate) -> str | Rest:
    date, reason = date_of(walk, rule.attribute)
    if date is None:
        leaves = rule.missing == "exit"
        then = "the sequence ends here" if leaves else "the way goes on"
        walk.say("no_date", step.id, reason, attribute=rule.attribute, then=then)
        if leaves:
            return walk.leave(step.id, "no_date")
        return walk.onward(step.id, step.next)
    zone = walk.zone(step.id)
    # An instant has the date that it has where the subscriber is; a date is that date everywhere.
    day = local(date, zone).date() if isinstance(date, datetime) else date
    wall = datetime.combine(day + timedelta(days=rule.offset), rule.at)
    until = resolve(wall, zone)
    kept = {"kind": "until_date", "attribute": rule.attribute, **_rule(wall, zone)}
    # A date that is past is a wait that ended then: the next mail is late from there.
    kind = "waiting" if until > walk.facts.now else "date_past"
    walk.say(kind, step.id, "until_date", until=until.isoformat(), **_without_kind(kept))  # type: ignore[arg-type]
    return Wait(step.id, until, kept)


def _rule(wall: datetime, zone: str) -> dict[str, Any]:
    # The wall time is kept as the rule says it, also where a gap makes the instant another.
    return {"wall": wall.isoformat(), "zone": zone, "tzdata": TZDATA_VERSION}


def _without_kind(rule: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rule.items() if key != "kind"}


def _send(walk: Walk, step: SendStep) -> str | Rest:
    for _, gate in GATES:
        stop = gate(walk, step)
        if stop is not None:
            return stop
    now = walk.facts.now
    expires_at = now + walk.lifetime
    walk.say("handed_off", step.id, "due", expires_at=expires_at.isoformat(), **lateness_of(walk))
    spans, words = allowed(walk, step, expires_at), words_of(walk, step)
    return HandOff(step.id, step.template, walk.due_at, expires_at, spans, words)
