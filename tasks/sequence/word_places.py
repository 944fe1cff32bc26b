"""From where in a sequence words are asked for: whoever comes to a personalized mail without a wait. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from schedules.definition import SendStep, Sequence, Step, WaitStep
from schedules.kinds import successors
from tasks.sequence import word_arms


@dataclass(frozen=True, slots=True)
class Place:
    """Where people stand who come to a personalized send without another wait.

    `leading`: the experiments that divide its texts, where they are made per segment.
    """

    at: str | None
    started: bool
    send: SendStep
    leading: word_arms.Leading = ()


def places(sequence: Sequence) -> list[Place]:
    """Every place from which words are asked for, and the send that they are for.

    Behind a branch all its ways count: which one is taken is known at the hand-off alone.
    """
    first = sequence.first
    found = [_place(sequence, None, first, send) for send in _reached(sequence, first)]
    for step in sequence.steps:
        if isinstance(step, WaitStep) and step.next is not None:
            ahead = _reached(sequence, step.next)
            found += [_place(sequence, step.id, step.next, send) for send in ahead]
        elif isinstance(step, SendStep) and step.personalize is not None:
            found.append(_place(sequence, step.id, None, step))
    return found


def _place(sequence: Sequence, at: str | None, begins: str | None, send: SendStep) -> Place:
    personal = send.personalize
    divided = personal is not None and personal.segment is not None
    leading = word_arms.leading(sequence, begins, send) if divided else ()
    return Place(at, at is not None and begins is not None, send, leading)


def _reached(sequence: Sequence, step_id: str) -> Iterator[SendStep]:
    seen: set[str] = set()
    ahead = [step_id]
    while ahead:
        step: Step | None = sequence.step(ahead.pop())
        if step is None or step.id in seen:
            continue
        seen.add(step.id)
        if isinstance(step, SendStep):
            if step.personalize is not None:
                yield step
        elif not isinstance(step, WaitStep):
            ahead += successors(step)
