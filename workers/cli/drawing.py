"""How a sequence looks as lines of text."""

from __future__ import annotations

from tasks.sequence.catalog import Shown, StepStanding
from workers.cli.render import number


def steps_as_lines(found: Shown) -> list[str]:
    """A sequence and its steps: what each does, who stands there, what came of its mails."""
    head = found.sequence
    state = "running"
    if head.paused_at is not None:
        state = f"paused since {head.paused_at:%Y-%m-%d %H:%M %Z} ({head.pause_reason})"
    if head.draining_since is not None:
        state += f", takes nobody new since {head.draining_since:%Y-%m-%d %H:%M %Z} ({head.drain_reason})"
    lines = [
        f"{head.key}, version {head.version} of {found.published_at:%Y-%m-%d %H:%M %Z}",
        f"  {head.title}",
        f"  {head.class_}" + (f", topic {head.topic}" if head.topic else ""),
        f"  {state}; {number(head.active)} under way, {number(head.ended)} ended",
        "",
    ]
    if found.not_begun:
        lines.append(f"  -  {number(found.not_begun)} have not begun")
    width = max(len(step.id) for step in found.steps)
    what = max(len(step.what) for step in found.steps)
    for place, step in enumerate(found.steps):
        lines.append(
            f"  {place + 1}  {step.id:<{width}}  {step.what:<{what}}  {_standing(step)}".rstrip()
        )
        below = found.steps[place + 1].id if place + 1 < len(found.steps) else None
        if step.next is not None and step.next != below:
            lines.append(f"     {'':<{width}}  then {step.next}")
    for step_id, n in found.elsewhere.items():
        lines.append(f"  ?  {step_id}: a step of an earlier version, with {number(n)} people")
    if found.older:
        lines.append(f"  {number(found.older)} go by an earlier version")
    return lines


def _standing(step: StepStanding) -> str:
    told = [f"{number(step.waiting)} waiting"] if step.waiting else []
    told += [f"{number(step.in_flight)} with a mail under way"] if step.in_flight else []
    told += [f"{number(n)} {state.replace('_', ' ')}" for state, n in step.outcomes.items()]
    return ", ".join(told)
