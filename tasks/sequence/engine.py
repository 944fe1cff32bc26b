"""What happens next to a due enrollment: pure, with the clock as a value.

`plan` walks from where the enrollment stands to its next resting place. On the way a mail that a
gate refuses becomes a `NonSend`; the way ends in exactly one `Rest`. The caller writes both, and
the decisions, in the transaction that locked the enrollment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from schedules.definition import OnLate, SendStep, Sequence, WaitStep
from schedules.localtime import TZDATA_VERSION, calendar_wall, is_zone, resolve
from tasks.sequence.decisions import Decision, Kind
from tasks.sequence.planned import (
    Await,
    Exit,
    Facts,
    HandOff,
    NonSend,
    NonSendState,
    Outcome,
    Park,
    Plan,
    Position,
    Postpone,
    Rest,
    Wait,
)

__all__ = [
    "GATES", "Await", "Decision", "Exit", "Facts", "HandOff", "NonSend", "Outcome", "Park", "Plan",
    "Position", "Postpone", "Rest", "Wait", "plan",
]  # fmt: skip

MESSAGE_LIFETIME: Final = timedelta(hours=72)
PUNCTUAL: Final = timedelta(minutes=1)
"""A send this little behind its time is the planner's ordinary work, not catching up."""

_GOES_ON: Final = frozenset({"sent", "sent_assumed", "held_out", "capped", "late"})
_LEAVES: Final = frozenset({"suppressed", "cancelled"})
_FAILS: Final = frozenset({"failed", "expired"})


@dataclass(slots=True)
class _Walk:
    sequence: Sequence
    position: Position
    facts: Facts
    lifetime: timedelta
    due_at: datetime
    spread: bool
    non_sends: list[NonSend] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def say(self, kind: Kind, step_id: str | None, reason: str, **detail: Any) -> None:
        self.decisions.append(Decision(kind, step_id, reason, detail))

    def onward(self, step_id: str, target: str | None) -> str | Rest:
        return target if target is not None else self.leave(step_id, "completed")

    def leave(self, step_id: str | None, reason: str, **detail: Any) -> Exit:
        self.say("exited", step_id, reason, **detail)
        return Exit(step_id, reason)


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
    walk = _Walk(sequence, position, facts, message_lifetime, due_at, spread=not postponed)
    way = _from_here(walk)
    begun: set[str] = set()
    while isinstance(way, str):
        if way in begun:
            raise ValueError(f"sequence {sequence.key!r} leads in a circle at {way!r}: validate it")
        begun.add(way)
        step = sequence.step(way)
        if isinstance(step, SendStep):
            way = _send(walk, step)
        elif isinstance(step, WaitStep):
            way = _wait(walk, step)
        else:
            way = walk.leave(way, step.reason if step else "step_deleted")
    return Plan(way, tuple(walk.non_sends), tuple(walk.decisions))


def _from_here(walk: _Walk) -> str | Rest:
    """Return the step to begin, or the rest that the outcome of the present step leads to."""
    position = walk.position
    if position.step_id is None:
        return walk.sequence.first
    step = walk.sequence.step(position.step_id)
    if step is None or position.started_at is None:
        return position.step_id
    if not isinstance(step, SendStep):
        return walk.onward(step.id, step.next) if isinstance(step, WaitStep) else step.id
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
    return walk.onward(step.id, step.next)


def _wait(walk: _Walk, step: WaitStep) -> Wait:
    now = walk.facts.now
    rule: dict[str, Any]
    if step.delay is not None:
        until = now + step.delay
        rule = {"kind": "delay", "seconds": int(step.delay.total_seconds())}
    else:
        zone, fallback = walk.position.zone, walk.sequence.timezone.fallback
        used = zone if zone is not None and is_zone(zone) else fallback
        if used is not zone:
            known = {"zone": zone[:64] if zone else None, "used": used}
            walk.say("zone_fallback", step.id, "unknown" if zone else "missing", **known)
        days = step.calendar_days or 0
        wall = calendar_wall(now, used, days, step.at)
        until = resolve(wall, used)
        if until <= now:  # `calendar_days: 0` after that time of day
            wall += timedelta(days=1)
            until = resolve(wall, used)
        # The wall time is kept as the rule says it, also where a gap makes the instant another.
        rule = {"kind": "calendar_days", "days": days, "wall": wall.isoformat()}
        rule |= {"zone": used, "tzdata": TZDATA_VERSION}
    walk.say("waiting", step.id, str(rule["kind"]), until=until.isoformat(), **_without_kind(rule))
    return Wait(step.id, until, rule)


def _send(walk: _Walk, step: SendStep) -> str | Rest:
    for _, gate in GATES:
        stop = gate(walk, step)
        if stop is not None:
            return stop
    now = walk.facts.now
    expires_at = now + walk.lifetime
    walk.say("handed_off", step.id, "due", expires_at=expires_at.isoformat(), **_lateness(walk))
    return HandOff(step.id, step.template, walk.due_at, expires_at, ((now, expires_at),))


def _refuse(
    walk: _Walk,
    step: SendStep,
    state: NonSendState,
    reason: str,
    *,
    leave: str | None,
    **detail: Any,
) -> str | Rest:
    walk.non_sends.append(NonSend(step.id, step.template, state, reason))
    walk.say("not_sent", step.id, reason, state=state, **detail)
    return walk.leave(step.id, leave) if leave else walk.onward(step.id, step.next)


Gate: TypeAlias = Callable[[_Walk, SendStep], str | Rest | None]
"""None lets the mail pass; else the rest, or the id of the step to go on with."""


def _open(walk: _Walk, step: SendStep) -> None:
    """Let everybody pass: the place of a gate that no definition can ask for yet."""


def _paused(walk: _Walk, step: SendStep) -> Rest | None:
    if not walk.facts.paused:
        return None
    walk.say("parked", step.id, "sequence_paused", due_at=walk.due_at.isoformat())
    return Park(step.id, "sequence_paused", walk.due_at)


def _consent(walk: _Walk, step: SendStep) -> str | Rest | None:
    if walk.sequence.class_ != "marketing" or walk.facts.opted_in:
        return None
    reason = "opted_out" if walk.facts.opted_in is False else "not_opted_in"
    return _refuse(walk, step, "suppressed", reason, leave=reason, topic=walk.sequence.topic)


def _suppression(walk: _Walk, step: SendStep) -> str | Rest | None:
    stopped = walk.facts.stopped
    return _refuse(walk, step, "suppressed", stopped, leave=stopped) if stopped else None


def _late(walk: _Walk, step: SendStep) -> str | Rest | None:
    catch_up, now = walk.sequence.catch_up, walk.facts.now
    bound = step.max_lateness or catch_up.max_lateness
    lateness = now - walk.due_at
    if bound is not None and lateness > bound:
        on_late: OnLate = step.on_late or catch_up.on_late
        if on_late == "send":
            return None
        leave = "late" if on_late == "exit" else None
        return _refuse(walk, step, "late", "max_lateness", leave=leave, **_lateness(walk))
    if catch_up.spread is None or not walk.spread or lateness <= PUNCTUAL:
        return None
    # Not beyond the bound: spreading must not be what makes a mail too late.
    span = catch_up.spread if bound is None else min(catch_up.spread, bound - lateness - PUNCTUAL)
    if span <= timedelta():
        return None
    until = now + span * _share(walk.sequence.key, step.id, walk.position.subscriber_id)
    rule = {"kind": "postponed", "by": "spread", "due_at": walk.due_at.isoformat()}
    walk.say("postponed", step.id, "spread", until=until.isoformat(), **_lateness(walk))
    return Postpone(step.id, until, rule)


GATES: Final[tuple[tuple[str, Gate], ...]] = (
    ("paused", _paused),
    ("exit_predicates", _open),
    ("consent", _consent),
    ("suppression", _suppression),
    ("holdout", _open),
    ("lateness", _late),
    ("window", _open),
    ("frequency_cap", _open),
    ("throttle", _open),
)
"""Every gate before a mail, in the order in which they speak; the first that refuses decides."""


def _share(sequence_key: str, step_id: str, subscriber_id: int) -> float:
    """Return a number in [0, 1) that is always the same for this subscriber at this step."""
    digest = hashlib.sha256(f"{sequence_key}\x1f{step_id}\x1f{subscriber_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def _lateness(walk: _Walk) -> dict[str, Any]:
    late = walk.facts.now - walk.due_at
    return {"late_s": int(late.total_seconds())} if late > PUNCTUAL else {}


def _without_kind(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rule.items() if key != "kind"}
