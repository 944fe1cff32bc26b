"""A ``webhook`` step, and the end of a wait for an event."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from schedules.definition import UntilEvent, WaitStep, WebhookStep
from tasks.sequence.gates import HOLDS
from tasks.sequence.judgement import storable
from tasks.sequence.planned import Call, Rest, Wait
from tasks.sequence.walk import Walk


def call(walk: Walk, step: WebhookStep) -> str | Rest:
    """Put the call into the outbox and go on; a pause holds it, and who leaves makes none."""
    for hold in HOLDS:
        stop = hold(walk, step)
        if stop is not None:
            return stop
    known = walk.known.subscriber if step.fields else {}
    fields = {name: storable(known.get(name)) for name in step.fields}
    walk.calls.append(Call(step.id, step.to, fields))
    walk.say("called", step.id, "outbox", to=step.to)
    return walk.onward(step.id, step.next)


def wait_for(walk: Walk, step: WaitStep, rule: UntilEvent) -> str | Rest:
    """Begin a wait for an event; what came before it may count already."""
    if step.id in walk.facts.awaited:
        return came(walk, step, rule)
    now = walk.facts.now
    until = now + rule.timeout
    kept = {"kind": "until_event", "event": rule.event, "until": until.isoformat()}
    kept["began"] = now.isoformat()
    walk.say("waiting", step.id, "until_event", until=until.isoformat(), event=rule.event)
    return Wait(step.id, until, kept)


def came(walk: Walk, step: WaitStep, rule: UntilEvent) -> str | Rest:
    """Return where a wait leads that was looked at: the event came, the time is over, or neither."""
    if step.id in walk.facts.awaited:
        walk.say("waited", step.id, "event", event=rule.event)
        return walk.onward(step.id, step.next)
    stored: dict[str, Any] = dict(walk.position.rule or {})
    until = datetime.fromisoformat(stored.get("until", walk.due_at.isoformat()))
    if until > walk.facts.now:  # something like it happened, that does not count
        return Wait(step.id, until, stored)
    walk.say("timed_out", step.id, "timeout", event=rule.event)
    return walk.onward(step.id, rule.on_timeout)
