"""Names of scores, labels and events that nothing here has yet, and that are near one which there is.

That is a warning, no finding: a score may be trained and an event come later. But a misspelled one is
missing for everybody and for good, and the way that a sequence takes then looks like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from schedules.definition import Sequence, WaitStep
from schedules.entry import EventTrigger
from schedules.findings import Finding, Located, Path
from schedules.reading import suggest
from tasks.sequence.asked_segments import asked
from tasks.sequence.behavior import CLICKED, OPENED

SCORES = text("SELECT name FROM score_artifact UNION SELECT name FROM score_run")
LABELS = text("SELECT DISTINCT segment FROM segment_run")
# From name to name over the index: a look-up for each, however many events have it.
EVENTS = text("""
WITH RECURSIVE found (name) AS (
    SELECT min(name) FROM event
    UNION ALL SELECT (SELECT min(e.name) FROM event e WHERE e.name > f.name) FROM found f
    WHERE f.name IS NOT NULL)
SELECT name FROM found WHERE name IS NOT NULL LIMIT 1000
""")


OURS: Final = frozenset({"churn", "clv", "engagement"})
"""The scores that the fleet makes itself; a test holds them to `tasks.churn.kinds`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The scores, labels of segments and events that there are."""

    scores: frozenset[str] = OURS
    labels: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset({OPENED, CLICKED})


def seen(connection: Connection) -> Seen:
    """Look for what has been made and recorded here."""
    return Seen(
        frozenset(connection.execute(SCORES).scalars()) | OURS,
        frozenset(connection.execute(LABELS).scalars()),
        frozenset(connection.execute(EVENTS).scalars()) | {OPENED, CLICKED},
    )


def unseen(sequence: Sequence, located: Located, known: Seen) -> list[Finding]:
    """Return a finding for each name that is near a known one and is none, in the order of the file."""
    found: dict[Finding, None] = {}
    kinds = (
        ("score", known.scores, _scores(sequence)),
        ("label of a segment", known.labels, _labels(sequence)),
        ("event", known.events, _events(sequence)),
    )
    for what, names, said in kinds:
        for path, name in said:
            move = None if name in names else suggest(name, names)
            if move is not None:
                message = f"no {what} {name!r} was ever seen here; {move}"
                found[located.finding(path, message)] = None
    return sorted(found)


def _scores(sequence: Sequence) -> Iterator[tuple[Path, str]]:
    for path, expression in asked(sequence):
        yield from ((path, name) for name in sorted({name for name, _ in expression.needs.scores}))


def _labels(sequence: Sequence) -> Iterator[tuple[Path, str]]:
    for path, expression in asked(sequence):
        yield from ((path, name) for name in sorted(expression.needs.segments))


def _events(sequence: Sequence) -> Iterator[tuple[Path, str]]:
    if isinstance(sequence.entry.trigger, EventTrigger):
        yield ("entry", "trigger", "event"), sequence.entry.trigger.event
    for index, rule in enumerate(sequence.exits):
        if rule.event is not None:
            yield ("exit", index, "event"), rule.event
    if sequence.goal is not None:
        yield ("goal", "event"), sequence.goal.event
    for index, step in enumerate(sequence.steps):
        if isinstance(step, WaitStep) and step.until_event is not None:
            yield ("steps", index, "wait", "until_event"), step.until_event.event
    for path, expression in asked(sequence):
        needs = expression.needs
        names = {name for name, _ in needs.counts} | needs.lasts
        yield from ((path, name) for name in sorted(names))
