"""Which arm of an experiment somebody comes into: pure, what is on record is a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schedules.definition import ExperimentStep
from tasks.sequence.planned import Assigned, Standing
from tasks.sequence.walk import Walk

NOBODY_YET = Standing()


@dataclass(frozen=True, slots=True)
class Way:
    """An arm and how one came to it; `shares` where it was drawn among them."""

    name: str
    how: Literal["chosen", "kept", "no_arm", "drawn"]
    shares: Mapping[str, int] | None = None


def arm_of(sequence_key: str, step: ExperimentStep, subscriber_id: int, standing: Standing) -> Way:
    """The arm that a subscriber comes into, by what is on record: now, or whenever they get there."""
    if step.arm(standing.chosen) is not None:
        return Way(str(standing.chosen), "chosen")
    if step.arm(standing.arm) is not None and standing.arm not in standing.stopped:
        return Way(str(standing.arm), "kept")
    moved = standing.weights if step.allocate == "thompson" else None
    shares = step.shares(standing.stopped, moved)
    if not shares:
        return Way(step.control.name, "no_arm")
    return Way(step.draw(sequence_key, subscriber_id, shares), "drawn", shares)


def assign(walk: Walk, step: ExperimentStep) -> str:
    """Return the step where the subscriber's arm begins; whom it is new for is written down.

    Who has an arm keeps it, on every entry and through every edit, until that arm is stopped or one
    is chosen for everybody. Who is held out goes some way too, and is not counted: no mail reaches
    them, whatever the arm.
    """
    standing = walk.facts.trials.get(step.id, NOBODY_YET)
    subscriber = walk.position.subscriber_id
    way = arm_of(walk.sequence.key, step, subscriber, standing)
    name, shares = way.name, way.shares
    if shares is None:
        return _say(walk, step, name, way.how, _SAID[way.how])
    if standing.arm is not None:
        gone = "stopped" if step.arm(standing.arm) is not None else "taken out by an edit"
        said = f"arm {standing.arm}, where they were, is {gone}; they are not counted here"
        return _say(walk, step, name, "moved", said)
    holdout = walk.sequence.holdout
    if walk.sequence.class_ == "marketing" and holdout is not None and holdout.holds(subscriber):
        return _say(walk, step, name, "held_out", "held out, so not counted")
    walk.assigned.append(Assigned(step.id, name, shares[name] / sum(shares.values()), shares))
    return _say(walk, step, name, "drawn", f"one of {len(shares)} arms, by lot")


_SAID = {
    "chosen": "it was chosen for everybody", "kept": "as before", "no_arm": "every arm is stopped"
}  # fmt: skip


def _say(walk: Walk, step: ExperimentStep, name: str, reason: str, said: str) -> str:
    arm = step.arm(name)
    assert arm is not None
    walk.say("assigned", step.id, reason, arm=name, to=arm.next, said=said)
    return arm.next
