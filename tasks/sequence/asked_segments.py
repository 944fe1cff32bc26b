"""Which named segments a definition asks for, and where: in any expression, of any part of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

from schedules.definition import BranchStep, Sequence
from schedules.expression import Expression
from schedules.findings import Finding, Located, Path
from schedules.kinds import ExitRule
from schedules.reading import suggest


def segment_findings(
    sequence: Sequence,
    located: Located,
    segment_exists: Callable[[str], bool],
    segments: Collection[str] = (),
) -> list[Finding]:
    """Return a finding for each segment that is asked for and is not there.

    Args:
        sequence: as the loader read it.
        located: its places, from the same read.
        segment_exists: whether there is a named segment of that key.
        segments: those that there are, for suggestions.
    """
    found: dict[Finding, None] = {}
    for path, expression in asked(sequence):
        for key in sorted(expression.needs.memberships):
            if not segment_exists(key):
                found[located.finding(path, _missing(key, segments))] = None
    # A trigger names a segment without an expression.
    named = getattr(getattr(sequence.entry, "trigger", None), "segment", None)
    if isinstance(named, str) and not segment_exists(named):
        found[located.finding(("entry", "trigger", "segment"), _missing(named, segments))] = None
    return sorted(found)


def _missing(key: str, segments: Collection[str]) -> str:
    move = suggest(key, segments) or "apply its file first, or correct the name"
    return (
        f"segment {key!r} does not exist: expected one that `dripfleet segment list` names; {move}"
    )


def asked(sequence: Sequence) -> Iterator[tuple[Path, Expression]]:
    """Yield every expression of a definition, and where it stands or the nearest thing around it."""
    for index, rule in enumerate(sequence.exits):
        yield from _within(rule, ("exit", index))
    for index, step in enumerate(sequence.steps):
        yield from _within(step, ("steps", index))
    for field in dataclasses.fields(sequence):
        if field.name not in ("exits", "steps") and not field.name.startswith("_"):
            yield from _within(getattr(sequence, field.name), (field.name,))


def _within(part: Any, path: Path) -> Iterator[tuple[Path, Expression]]:
    if isinstance(part, Expression):
        yield path, part
    elif isinstance(part, BranchStep):
        for index, case in enumerate(part.cases):
            yield (*path, "branch", index, "if"), case.condition
    elif isinstance(part, ExitRule):
        if part.when is not None:
            yield (*path, "when"), part.when
    elif isinstance(part, tuple | list):
        for each in part:
            yield from _within(each, path)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        for field in dataclasses.fields(part):
            yield from _within(getattr(part, field.name), (*path, field.name))
