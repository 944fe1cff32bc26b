"""Names of scores, labels and events that nothing here has yet, and that are near one which there is.

That is a warning, no finding: a score may be trained and an event come later. But a misspelled one is
missing for everybody and for good, and the way that a sequence takes then looks like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from schedules.definition import Sequence, WaitStep
from schedules.entry import EventTrigger
from schedules.findings import Finding, Located, Path
from schedules.reading import suggest
from tasks.sequence.asked_segments import asked
from tasks.sequence.behavior import CLICKED, OPENED

SCORES = text("SELECT name FROM score_artifact UNION SELECT name FROM score_run")
# Of each uplift whether anybody may branch on it, and what its last training showed.
UPLIFTS = text("""
SELECT DISTINCT ON (a.name) a.name, a.manifest -> 'report' -> 'qini' AS qini,
    EXISTS (SELECT FROM score_champion c WHERE c.name = a.name) AS offered
FROM score_artifact a WHERE starts_with(a.name, 'uplift:') ORDER BY a.name, a.created_at DESC
""")
LABELS = text("SELECT DISTINCT segment FROM segment_run")
# From name to name over the index: a look-up for each, however many events have it.
EVENTS = text("""
WITH RECURSIVE found (name) AS (
    SELECT min(name) FROM event
    UNION ALL SELECT (SELECT min(e.name) FROM event e WHERE e.name > f.name) FROM found f
    WHERE f.name IS NOT NULL)
SELECT name FROM found WHERE name IS NOT NULL LIMIT 1000
""")


UPLIFT: Final = "uplift:"
"""How the name of a score begins that says what a mail adds; a test holds it to `tasks.churn`."""
OURS: Final = frozenset({"churn", "clv", "engagement"})
"""The scores that the fleet makes itself; a test holds them to `tasks.churn.kinds`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The scores, labels of segments and events that there are.

    ``uplifts``: of each that was trained what it shows, or None where it is offered; None as a whole:
    nobody knows.
    """

    scores: frozenset[str] = OURS
    labels: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset({OPENED, CLICKED})
    uplifts: Mapping[str, str | None] | None = None


def seen(connection: Connection) -> Seen:
    """Look for what has been made and recorded here."""
    return Seen(
        frozenset(connection.execute(SCORES).scalars()) | OURS,
        frozenset(connection.execute(LABELS).scalars()),
        frozenset(connection.execute(EVENTS).scalars()) | {OPENED, CLICKED},
        {row.name: _shows(row) for row in connection.execute(UPLIFTS)},
    )


def uplift_in_words(connection: Connection, key: str) -> str | None:
    """What the last training of ``uplift:KEY`` showed; None: there was none."""
    name = f"{UPLIFT}{key}"
    rows = [row for row in connection.execute(UPLIFTS) if row.name == name]
    if not rows:
        return None
    return f"{name}: {_shows(rows[0]) or 'a gain is shown, and steps may branch on it'}"


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
    if known.uplifts is not None:
        for path, name in _scores(sequence):
            missing = _not_offered(name, known.uplifts)
            if missing is not None:
                found[located.finding(path, missing)] = None
    return sorted(found)


def _not_offered(name: str, uplifts: Mapping[str, str | None]) -> str | None:
    """Why an uplift is missing for everybody; None: it is none, or it is offered."""
    if not name.startswith(UPLIFT):
        return None
    missing = f"score {name!r} is missing for everybody, who so take the way of a stale score"
    if name not in uplifts:
        return f"{missing}: it was never trained; `dripfleet churn train {name}`"
    why = uplifts[name]
    return None if why is None else f"{missing}: {why}"


def _shows(row: Any) -> str | None:
    if row.offered:
        return None
    value, low, high = row.qini
    if low > 0:
        return f"its last training shows a gain, and was not promoted; `dripfleet churn train {row.name}`"
    return (
        f"no gain is shown (Qini coefficient {value:+.3f}, {low:+.3f} to {high:+.3f}: the interval"
        " does not lie above 0)"
    )


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
