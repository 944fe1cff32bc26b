"""Which experiments there are: each as the newest version that has it says it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, text

from schedules.definition import ExperimentStep, Sequence
from schedules.reading import suggest
from tasks.errors import Permanent
from tasks.sequence.trials import key_of, rulings

WITH_EXPERIMENTS = text("""
SELECT v.sequence_key, v.version, v.definition, v.version = q.version AS current
FROM sequence_version v JOIN sequence q ON q.key = v.sequence_key
WHERE v.definition @> '{"steps": [{"experiment": {}}]}'
  AND (CAST(:key AS text) IS NULL OR v.sequence_key = :key)
ORDER BY v.sequence_key, v.version DESC
""")
PEOPLE = text("""
SELECT count(*) AS people, min(at) AS since FROM experiment_assignment WHERE experiment_key = :key
""")


@dataclass(frozen=True, slots=True)
class Listed:
    """An experiment in one line; ``chosen``: the arm that everybody comes into since it ended."""

    key: str
    arms: str
    people: int
    since: dt.datetime | None
    stopped: str | None
    chosen: str | None
    in_current_version: bool


def find(connection: Connection, name: str) -> tuple[Sequence, ExperimentStep]:
    """Return an experiment by its key, or by that of a sequence which has one only.

    Raises:
        Permanent: there is none of that name, or several.
    """
    sequence_key, _, step_id = name.partition("/")
    found = {step.id: (sequence, step) for sequence, step, _ in every(connection, sequence_key)}
    if step_id in found:
        return found[step_id]
    if not step_id and len(found) == 1:
        return next(iter(found.values()))
    keys = [key_of(sequence.key, step.id) for sequence, step, _ in every(connection)]
    mine = [key for key in keys if key.startswith(f"{sequence_key}/")]
    if not step_id and mine:
        raise Permanent(f"sequence {name!r} has several experiments: name one of {', '.join(mine)}")
    move = suggest(name, keys) or "`dripfleet experiment list` names those there are"
    raise Permanent(f"there is no experiment {name!r}: expected SEQUENCE/STEP; {move}")


def listed(connection: Connection) -> list[Listed]:
    """Return every experiment of the published sequences, by key."""
    made = []
    for sequence, step, current in every(connection):
        key = key_of(sequence.key, step.id)
        came = connection.execute(PEOPLE, {"key": key}).one()
        ruled = rulings(connection, [key]).get(key)
        made.append(
            Listed(
                key,
                ", ".join(f"{arm.name} {arm.weight}" for arm in step.arms),
                came.people,
                came.since,
                ", ".join(sorted(ruled.stopped)) or None if ruled else None,
                ruled.chosen if ruled else None,
                current,
            )
        )
    return made


def every(
    connection: Connection, sequence_key: str | None = None
) -> Iterator[tuple[Sequence, ExperimentStep, bool]]:
    """Each experiment, as the newest version that has it says it; and whether that is the current one."""
    seen: set[tuple[str, str]] = set()
    for row in connection.execute(WITH_EXPERIMENTS, {"key": sequence_key}).all():
        try:
            sequence = Sequence.from_json(row.definition)
        except ValueError:
            continue  # of another release
        for step in sequence.steps:
            if isinstance(step, ExperimentStep) and (sequence.key, step.id) not in seen:
                seen.add((sequence.key, step.id))
                yield sequence, step, row.current
