"""``pause: {clock: freeze}``: what waits when a pause comes waits as much longer as the pause is long.

Nothing is moved when a sequence is resumed, however many wait in it: a due time that a pause lay
before is put off when it is looked at. So a crash in between leaves nothing half done.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from schedules.definition import SendStep, WaitStep, WebhookStep
from schedules.localtime import TZDATA_VERSION, local, resolve
from tasks.sequence.planned import Park, Postpone, Wait
from tasks.sequence.walk import Walk


def freeze(walk: Walk) -> Park | None:
    """Hold a wait that would end while its sequence is paused; events that came are kept for later."""
    position, step = walk.position, _step(walk)
    if not walk.facts.paused or walk.sequence.pause != "freeze" or position.started_at is None:
        return None
    if not isinstance(step, WaitStep):
        return None
    rule = dict(position.rule or {})
    rule.setdefault("thawed", position.started_at.isoformat())
    walk.say("parked", step.id, "sequence_paused", due_at=walk.due_at.isoformat())
    return Park(step.id, "sequence_paused", walk.due_at, rule)


def thaw(walk: Walk) -> Wait | Postpone | None:
    """Put off what is due by the pauses that lay before it; None: it is due, from `walk.due_at` on."""
    position, step = walk.position, _step(walk)
    if walk.sequence.pause != "freeze" or not walk.facts.pauses or step is None:
        return None
    rule = dict(position.rule or {})
    if isinstance(step, WaitStep) and position.started_at is not None:
        if step.until_date is not None or step.id in walk.facts.awaited:
            return None
        due = _instant(rule.get("until"), position.due_at)
        until = _later(walk, due, _instant(rule.get("thawed"), position.started_at))
    elif isinstance(step, SendStep | WebhookStep) and position.started_at is None and not rule:
        due = position.due_at
        over = (end - begin for begin, end in walk.facts.pauses if end > due)
        until = due + sum(over, timedelta())
    else:
        return None
    if until == due:
        return None
    if "wall" in rule:
        until, again = _wall(until, walk.zone(step.id), rule)
        rule |= again
    walk.due_at = until
    if until <= walk.facts.now:
        return None
    walk.say("waiting", step.id, "frozen", until=until.isoformat(), **_shown(rule))
    if isinstance(step, WaitStep):
        rule["thawed"] = walk.facts.now.isoformat()
        if step.until_event is not None:
            rule["until"] = until.isoformat()
        return Wait(step.id, until, rule)
    return Postpone(step.id, until, {"kind": "thawed", "due_at": due.isoformat()})


def frozen_since(walk: Walk, since: datetime) -> timedelta:
    """Return how much of the time since then does not count."""
    if walk.sequence.pause != "freeze":
        return timedelta()
    spans = (end - max(begin, since) for begin, end in walk.facts.pauses if end > since)
    return sum(spans, timedelta())


def _step(walk: Walk) -> Any:
    return walk.sequence.step(walk.position.step_id) if walk.position.step_id else None


def _later(walk: Walk, due: datetime, since: datetime) -> datetime:
    """Each pause that begins before the end of the wait moves that end, the next may come before it."""
    for begin, end in walk.facts.pauses:
        begin = max(begin, since)
        if begin < end and begin < due:
            due += end - begin
    return due


def _wall(until: datetime, zone: str, rule: dict[str, Any]) -> tuple[datetime, dict[str, Any]]:
    """Return the first time of that name, where the subscriber is, that is not before `until`."""
    clock = datetime.fromisoformat(rule["wall"]).time()
    wall = datetime.combine(local(until, zone).date(), clock)
    if resolve(wall, zone) < until:
        wall += timedelta(days=1)
    return resolve(wall, zone), {
        "wall": wall.isoformat(), "zone": zone, "tzdata": TZDATA_VERSION,
    }  # fmt: skip


def _shown(rule: dict[str, Any]) -> dict[str, Any]:
    return {key: rule[key] for key in ("wall", "zone") if key in rule}


def _instant(text: str | None, otherwise: datetime) -> datetime:
    return datetime.fromisoformat(text) if text else otherwise
