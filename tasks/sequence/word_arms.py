"""For which arm a text per segment is made, where an experiment leads to its mail.

Arms that share a mail would share its text, and what a reader of one arm is told would be what was
written for another. So a text per segment is one a label and arm. Pure; what is on record is a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from schedules.definition import ExperimentStep, SendStep, Sequence, WaitStep
from schedules.kinds import successors
from tasks.sequence.planned import Standing
from tasks.sequence.trial import NOBODY_YET, arm_of

TOLD: Final = "arm of "
"""How the arm is told with the segment's label, with the id of the experiment behind it."""

Leading: TypeAlias = tuple[tuple[ExperimentStep, bool], ...]
"""Experiments that lead to a mail, each with whether it is still ahead."""


def leading(sequence: Sequence, begins: str | None, send: SendStep) -> Leading:
    """The experiments that lead to `send`, for who comes to the step `begins` next."""
    ahead = _after(sequence, begins, waits=False) if begins is not None else set()
    return tuple(
        (step, step.id in ahead)
        for step in sequence.steps
        if isinstance(step, ExperimentStep) and send.id in _after(sequence, step.id)
    )


def arms_of(
    sequence_key: str, found: Leading, subscriber_id: int, standings: Mapping[str, Standing]
) -> dict[str, str]:
    """The arms of a subscriber, by experiment: that on record, else the one that they will come into.

    Who has none on record of an experiment that is no longer ahead came another way, and has no arm.
    """
    return {
        step.id: arm_of(sequence_key, step, subscriber_id, standing).name
        for step, ahead in found
        if (standing := standings.get(step.id, NOBODY_YET)).arm is not None or ahead
    }


def told(arms: Mapping[str, str]) -> dict[str, str]:
    """What a model is told of arms."""
    return {f"{TOLD}{step_id}": arm for step_id, arm in arms.items()}


def read(what: Mapping[str, str | None]) -> dict[str, str]:
    """The arms that a text was made for."""
    return {
        key.removeprefix(TOLD): arm for key, arm in what.items() if arm and key.startswith(TOLD)
    }


def _after(sequence: Sequence, begins: str, *, waits: bool = True) -> set[str]:
    """The steps that can be come to from one, itself among them; without `waits` up to the next rest."""
    found: set[str] = set()
    ahead = [begins]
    while ahead:
        step = sequence.step(ahead.pop())
        if step is None or step.id in found:
            continue
        found.add(step.id)
        if waits or not isinstance(step, SendStep | WaitStep):
            ahead += successors(step)
    return found
