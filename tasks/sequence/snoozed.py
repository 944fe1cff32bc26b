"""The gate of those who asked for a pause: their marketing mail waits until it is over."""

from __future__ import annotations

from schedules.definition import SendStep
from tasks.sequence.limited import move
from tasks.sequence.planned import Postpone
from tasks.sequence.walk import Walk


def snoozed(walk: Walk, step: SendStep) -> Postpone | None:
    """Move a mail behind the pause; it is due, and late, from there."""
    until = walk.facts.snoozed_until
    if walk.sequence.class_ != "marketing" or until is None or until <= walk.facts.now:
        return None
    return move(walk, step, until, "snooze")
