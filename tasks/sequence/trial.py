"""Which arm of an experiment somebody comes into: pure, what is on record is a value."""

from __future__ import annotations

from schedules.definition import ExperimentStep
from tasks.sequence.planned import Assigned, Standing
from tasks.sequence.walk import Walk

NOBODY_YET = Standing()


def assign(walk: Walk, step: ExperimentStep) -> str:
    """Return the step where the subscriber's arm begins; whom it is new for is written down.

    Who has an arm keeps it, on every entry and through every edit, until that arm is stopped or one
    is chosen for everybody. Who is held out goes some way too, and is not counted: no mail reaches
    them, whatever the arm.
    """
    standing = walk.facts.trials.get(step.id, NOBODY_YET)
    chosen = step.arm(standing.chosen)
    if chosen is not None:
        return _say(walk, step, chosen.name, "chosen", "it was chosen for everybody")
    kept = step.arm(standing.arm)
    if kept is not None and kept.name not in standing.stopped:
        return _say(walk, step, kept.name, "kept", "as before")
    moved = standing.weights if step.allocate == "thompson" else None
    shares = step.shares(standing.stopped, moved)
    if not shares:
        return _say(walk, step, step.control.name, "no_arm", "every arm is stopped")
    subscriber = walk.position.subscriber_id
    name = step.draw(walk.sequence.key, subscriber, shares)
    if standing.arm is not None:
        gone = "stopped" if kept is not None else "taken out by an edit"
        said = f"arm {standing.arm}, where they were, is {gone}; they are not counted here"
        return _say(walk, step, name, "moved", said)
    holdout = walk.sequence.holdout
    if walk.sequence.class_ == "marketing" and holdout is not None and holdout.holds(subscriber):
        return _say(walk, step, name, "held_out", "held out, so not counted")
    walk.assigned.append(Assigned(step.id, name, shares[name] / sum(shares.values()), shares))
    return _say(walk, step, name, "drawn", f"one of {len(shares)} arms, by lot")


def _say(walk: Walk, step: ExperimentStep, name: str, reason: str, said: str) -> str:
    arm = step.arm(name)
    assert arm is not None
    walk.say("assigned", step.id, reason, arm=name, to=arm.next, said=said)
    return arm.next
