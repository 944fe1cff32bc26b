"""The gates before a mail, in the order in which they speak; the first that refuses decides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeAlias

from schedules.definition import OnLate, SendStep, WebhookStep
from tasks.sequence.judgement import leaves_by
from tasks.sequence.limited import cap, late_window, throttle, window
from tasks.sequence.personal import worded
from tasks.sequence.planned import NonSend, NonSendState, Park, Postpone, Rest
from tasks.sequence.snoozed import snoozed
from tasks.sequence.walk import Walk

PUNCTUAL: Final = timedelta(minutes=1)
"""A send this little behind its time is the planner's ordinary work, not catching up."""


def _refuse(
    walk: Walk,
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


Gate: TypeAlias = Callable[[Walk, SendStep], str | Rest | None]
"""None lets the mail pass; else the rest, or the id of the step to go on with."""


def _paused(walk: Walk, step: SendStep | WebhookStep) -> Rest | None:
    if not walk.facts.paused:
        return None
    walk.say("parked", step.id, "sequence_paused", due_at=walk.due_at.isoformat())
    return Park(step.id, "sequence_paused", walk.due_at)


def _exits(walk: Walk, step: SendStep | WebhookStep) -> Rest | None:
    for rule in walk.sequence.exits:
        why = leaves_by(walk, rule)
        if why is not None:
            return walk.leave(step.id, rule.reason, because=why)
    return None


def _consent(walk: Walk, step: SendStep) -> str | Rest | None:
    if walk.sequence.class_ != "marketing" or walk.facts.opted_in:
        return None
    reason = "opted_out" if walk.facts.opted_in is False else "not_opted_in"
    return _refuse(walk, step, "suppressed", reason, leave=reason, topic=walk.sequence.topic)


def _suppression(walk: Walk, step: SendStep) -> str | Rest | None:
    stopped = walk.facts.stopped
    return _refuse(walk, step, "suppressed", stopped, leave=stopped) if stopped else None


def _holdout(walk: Walk, step: SendStep) -> str | Rest | None:
    holdout = walk.sequence.holdout
    if walk.sequence.class_ == "transactional" or holdout is None:
        return None
    if not holdout.holds(walk.position.subscriber_id):
        return None
    return _refuse(walk, step, "held_out", "holdout", leave=None)


def _late(walk: Walk, step: SendStep) -> str | Rest | None:
    catch_up, now = walk.sequence.catch_up, walk.facts.now
    bound = step.max_lateness or catch_up.max_lateness
    lateness = now - walk.due_at
    if bound is not None and lateness > bound:
        on_late: OnLate = step.on_late or catch_up.on_late
        if on_late == "send":
            return None
        if on_late == "next_window" and walk.sequence.class_ == "marketing":
            return late_window(walk, step, **lateness_of(walk))
        leave = "late" if on_late == "exit" else None
        return _refuse(walk, step, "late", "max_lateness", leave=leave, **lateness_of(walk))
    if catch_up.spread is None or not walk.spread or lateness <= PUNCTUAL:
        return None
    # Not beyond the bound: spreading must not be what makes a mail too late.
    span = catch_up.spread if bound is None else min(catch_up.spread, bound - lateness - PUNCTUAL)
    if span <= timedelta():
        return None
    until = now + span * _share(walk.sequence.key, step.id, walk.position.subscriber_id)
    rule = {"kind": "postponed", "by": "spread", "due_at": walk.due_at.isoformat()}
    walk.say("postponed", step.id, "spread", until=until.isoformat(), **lateness_of(walk))
    return Postpone(step.id, until, rule)


def _cap(walk: Walk, step: SendStep) -> str | Rest | None:
    hit = cap(walk, step)
    if not isinstance(hit, str):
        return hit
    return _refuse(walk, step, "capped", hit, leave=None)


GATES: Final[tuple[tuple[str, Gate], ...]] = (
    ("paused", _paused),
    ("exit_predicates", _exits),
    ("consent", _consent),
    ("suppression", _suppression),
    ("holdout", _holdout),
    ("snooze", snoozed),
    ("lateness", _late),
    ("window", window),
    ("frequency_cap", _cap),
    ("throttle", throttle),
    ("words", worded),
)
"""Every gate before a mail, in the order in which they speak; the first that refuses decides."""


HOLDS: Final = (_paused, _exits)
"""The gates before whatever else leaves the house."""


def _share(sequence_key: str, step_id: str, subscriber_id: int) -> float:
    """Return a number in [0, 1) that is always the same for this subscriber at this step."""
    digest = hashlib.sha256(f"{sequence_key}\x1f{step_id}\x1f{subscriber_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def lateness_of(walk: Walk) -> dict[str, Any]:
    """Return how late it is, for the log; nothing where that is the planner's ordinary work."""
    late = walk.facts.now - walk.due_at
    return {"late_s": int(late.total_seconds())} if late > PUNCTUAL else {}
