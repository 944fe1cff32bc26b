"""Gates 7 to 9: when a mail may go where the subscriber is, how many may, and how fast all of them.

All move the due time of the enrollment. The rule of such a move keeps the time that the mail was
first due at, for the log, and since when a cap has held it, for `give_up_after`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from schedules.definition import SendStep, Sequence
from schedules.windows import Span, next_open, next_window, open_spans
from tasks.sequence.planned import HandOff, Plan, Position, Postpone
from tasks.sequence.walk import Walk

LOOK_AGAIN: Final = timedelta(hours=1)
"""A mail under way may still give its slot back, so whoever waits for it looks so often."""

BEHIND: Final = timedelta(seconds=1)
"""Whoever is behind another in the same second lets that one go first."""

LONGEST_FREEZE: Final = timedelta(days=30)
"""A mail that was handed over before a pause of this length or more expires, whatever its clock."""

AHEAD: Final = timedelta(minutes=1)
"""A minute's share of a throttle may go at once, so that the planner need not look mail by mail."""

THROTTLE: Final = "throttle"

REPEATED: Final = ("cap", "contention")

MOVED: Final = "moved"
"""Kind of the rule; unlike a spread mail, one that was moved is due, and late, from its new time."""


def move(walk: Walk, step: SendStep, until: datetime, by: str, **detail: Any) -> Postpone:
    """Move a mail to `until`; the log says what moved it."""
    kept = _kept(walk, step)
    rule = {"kind": MOVED, "by": by, "due_at": kept.get("due_at", walk.due_at.isoformat())}
    if by == "cap":
        rule["capped_since"] = kept.get("capped_since", walk.facts.now.isoformat())
    elif "capped_since" in kept:
        rule["capped_since"] = kept["capped_since"]
    # Who waits for a slot is looked at again and again; the log says so once.
    if by not in REPEATED or kept.get("by") != by:
        walk.say("postponed", step.id, by, until=until.isoformat(), **detail)
    return Postpone(step.id, until, rule)


def _kept(walk: Walk, step: SendStep) -> Mapping[str, Any]:
    """Return the rule by which this very mail was moved before, or nothing."""
    rule, here = walk.position.rule or {}, walk.position.step_id == step.id
    return rule if here and rule.get("kind") == MOVED else {}


def window(walk: Walk, step: SendStep) -> Postpone | None:
    """Gate 7: quiet hours and sending windows, in the subscriber's zone."""
    limits = walk.limits
    if not limits.local:
        return None
    zone, now = walk.zone(step.id), walk.facts.now
    until = next_open(limits, zone, now)
    if until <= now:
        return None
    quiet = limits.quiet_hours is not None and limits.quiet_hours.holds(walk.wall(zone).time())
    return move(walk, step, until, "quiet_hours" if quiet else "send_window", zone=zone)


def late_window(walk: Walk, step: SendStep, **detail: Any) -> Postpone:
    """``on_late: next_window``: what missed its window takes the next that begins."""
    zone = walk.zone(step.id)
    until = next_window(walk.limits, zone, walk.facts.now)
    return move(walk, step, until, "max_lateness", zone=zone, **detail)


def cap(walk: Walk, step: SendStep) -> Postpone | str | None:
    """Gate 8: the frequency cap. None lets the mail pass; a word is why it is not sent at all."""
    rule, now = walk.limits.cap, walk.facts.now
    if rule is None:
        return None
    taken = sorted(at for at in walk.facts.taken.went if at > now - rule.per)
    used = len(taken) + walk.facts.taken.under_way
    if used + walk.facts.taken.rivals < rule.max:
        return None
    if used < rule.max:  # the last free slots go to those who come first
        return move(walk, step, now + BEHIND, "contention", taken=used, most=rule.max)
    if rule.on_hit == "skip":
        return "frequency_cap"
    since = datetime.fromisoformat(_kept(walk, step).get("capped_since", now.isoformat()))
    if rule.give_up_after is not None and now - since >= rule.give_up_after:
        return "frequency_cap"
    # So many of the oldest must leave the window before one is free; those under way left no trace yet.
    leaving = used - rule.max
    until = taken[leaving] + rule.per if leaving < len(taken) else now + LOOK_AGAIN
    if walk.facts.taken.under_way:
        until = min(until, now + LOOK_AGAIN)
    if rule.give_up_after is not None:
        until = min(until, since + rule.give_up_after)
    return move(walk, step, until, "cap", taken=used, most=rule.max)


def throttle(walk: Walk, step: SendStep) -> Postpone | None:
    """Gate 9: the rate of the sequence. Who comes too early has a slot of their own from then on."""
    rate, slot, now = walk.limits.throttle, walk.facts.slot, walk.facts.now
    if rate is None or slot is None or slot <= now + AHEAD or _has_slot(walk.position, step.id):
        return None
    return move(walk, step, slot, THROTTLE, rate=str(rate))


def slot_after(
    sequence: Sequence, slot: datetime | None, position: Position, plan: Plan, now: datetime
) -> datetime | None:
    """Return the slot of the next mail, once this plan is carried out; ``slot`` where it took none."""
    rate, rest = sequence.limits.throttle, plan.rest
    if rate is None or sequence.class_ != "marketing":
        return slot
    if isinstance(rest, Postpone) and rest.rule.get("by") == THROTTLE:
        return rest.until + rate.interval
    if isinstance(rest, HandOff) and not _has_slot(position, rest.step_id):
        return (now if slot is None else max(slot, now)) + rate.interval
    return slot


def _has_slot(position: Position, step_id: str) -> bool:
    """Whether this very mail was moved to a slot of its own, and to nothing else since."""
    rule = position.rule or {}
    return position.step_id == step_id and rule.get("by") == THROTTLE


def allowed(walk: Walk, step: SendStep, expires_at: datetime) -> tuple[Span, ...]:
    """Return when ARM may let the mail go, now and at every retry: windows minus quiet hours."""
    # A pause that freezes time moves `expires_at` on; the windows are there already.
    end = expires_at + LONGEST_FREEZE if walk.sequence.pause == "freeze" else expires_at
    if not walk.limits.local:
        return ((walk.facts.now, end),)
    return open_spans(walk.limits, walk.zone(step.id), walk.facts.now, end)
