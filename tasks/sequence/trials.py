"""Experiments on record: who is in which arm, which arms are stopped, and who said so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, text

from schedules.definition import ExperimentStep, Sequence
from tasks.sequence.planned import Assigned, Standing

ARMS_OF = text("""
SELECT r.enrollment_id, r.step_id, a.arm
FROM unnest(CAST(:ids AS bigint[]), CAST(:subscribers AS bigint[]), CAST(:keys AS text[]),
            CAST(:steps AS text[])) AS r (enrollment_id, subscriber_id, key, step_id)
JOIN experiment_assignment a ON a.experiment_key = r.key AND a.subscriber_id = r.subscriber_id
""")
RULINGS = text("""
SELECT experiment_key, arm, kind, CAST(NULL AS jsonb) AS weights FROM experiment_ruling
WHERE experiment_key = ANY(:keys) AND lifted_at IS NULL
UNION ALL
SELECT experiment_key, NULL, 'weights', weights FROM experiment_allocation
WHERE experiment_key = ANY(:keys)
""")

# Shares that were never met before begin an epoch; two planners may both think so.
BEGIN = text("""
INSERT INTO experiment_epoch (experiment_key, shares)
SELECT DISTINCT r.key, CAST(r.shares AS jsonb)
FROM unnest(CAST(:keys AS text[]), CAST(:shares AS text[])) AS r (key, shares)
WHERE NOT EXISTS (SELECT FROM experiment_epoch e
    WHERE e.experiment_key = r.key AND e.shares = CAST(r.shares AS jsonb))
ON CONFLICT (experiment_key, shares) DO NOTHING
""")
# The first arm that somebody was given is theirs.
ASSIGN = text("""
INSERT INTO experiment_assignment
    (experiment_key, subscriber_id, arm, propensity, epoch_id, enrollment_id)
SELECT r.key, r.subscriber_id, r.arm, r.propensity, e.id, r.enrollment_id
FROM unnest(CAST(:keys AS text[]), CAST(:subscribers AS bigint[]), CAST(:arms AS text[]),
            CAST(:propensities AS float8[]), CAST(:shares AS text[]), CAST(:enrollments AS bigint[]))
     AS r (key, subscriber_id, arm, propensity, shares, enrollment_id)
JOIN experiment_epoch e ON e.experiment_key = r.key AND e.shares = CAST(r.shares AS jsonb)
ORDER BY r.key, r.subscriber_id
ON CONFLICT (experiment_key, subscriber_id) DO NOTHING
""")
RULE = text("""
INSERT INTO experiment_ruling (experiment_key, arm, kind, ruled_by, reason, detail)
VALUES (:key, :arm, :kind, :by, :reason, CAST(:detail AS jsonb))
ON CONFLICT DO NOTHING RETURNING id
""")
LIFT = text("""
UPDATE experiment_ruling SET lifted_at = clock_timestamp()
WHERE experiment_key = :key AND lifted_at IS NULL AND (CAST(:arm AS text) IS NULL OR arm = :arm)
""")


def key_of(sequence_key: str, step_id: str) -> str:
    """Return what an experiment is called: ``win-back/split``."""
    return f"{sequence_key}/{step_id}"


def standings(
    connection: Connection, rows: Iterable[Any], sequences: Mapping[int, Sequence]
) -> dict[int, dict[str, Standing]]:
    """Return by enrollment and step what is on record of the experiments on its way.

    Args:
        connection: inside a transaction.
        rows: with id and subscriber_id.
        sequences: by enrollment; others have none.
    """
    asked = [
        (row, step.id, key_of(sequence.key, step.id))
        for row in rows
        if (sequence := sequences.get(row.id)) is not None
        for step in sequence.steps
        if isinstance(step, ExperimentStep)
    ]
    if not asked:
        return {}
    general = rulings(connection, {key for _, _, key in asked})
    found: dict[int, dict[str, Standing]] = {}
    for row, step_id, key in asked:
        found.setdefault(row.id, {})[step_id] = general.get(key, Standing())
    values = {
        "ids": [row.id for row, _, _ in asked],
        "subscribers": [row.subscriber_id for row, _, _ in asked],
        "keys": [key for _, _, key in asked],
        "steps": [step_id for _, step_id, _ in asked],
    }
    for one in connection.execute(ARMS_OF, values):
        mine = found[one.enrollment_id]
        mine[one.step_id] = replace(mine[one.step_id], arm=one.arm)
    return found


def rulings(connection: Connection, keys: Iterable[str]) -> dict[str, Standing]:
    """Return what holds for everybody, of experiments of which something is on record."""
    found: dict[str, Standing] = {}
    for row in connection.execute(RULINGS, {"keys": sorted(keys)}):
        standing = found.get(row.experiment_key, Standing())
        if row.kind == "weights":
            standing = replace(standing, weights=row.weights)
        elif row.kind == "chosen":
            standing = replace(standing, chosen=row.arm)
        else:
            standing = replace(standing, stopped=standing.stopped | {row.arm})
        found[row.experiment_key] = standing
    return found


def write(connection: Connection, assigned: Iterable[tuple[Any, Assigned]]) -> None:
    """Write down who came into which arm, in the transaction that plans what comes of it.

    Args:
        connection: inside that transaction.
        assigned: rows with id, subscriber_id and sequence_key, and their arms.
    """
    made = list(assigned)
    if not made:
        return
    shares = [json.dumps(dict(each.shares)) for _, each in made]
    values: dict[str, list[Any]] = {
        "keys": [key_of(row.sequence_key, each.step_id) for row, each in made],
        "shares": shares,
    }
    connection.execute(BEGIN, values)
    values |= {
        "subscribers": [row.subscriber_id for row, _ in made],
        "arms": [each.arm for _, each in made],
        "propensities": [each.propensity for _, each in made],
        "enrollments": [row.id for row, _ in made],
    }
    connection.execute(ASSIGN, values)


def rule(
    connection: Connection, key: str, arm: str, kind: str, by: str, reason: str, detail: Any = None
) -> bool:
    """Write down that nobody (`stopped`) or everybody (`chosen`) comes into an arm; False: it stood."""
    values = {"key": key, "arm": arm, "kind": kind, "by": by, "reason": reason}
    written = connection.execute(RULE, values | {"detail": json.dumps(detail or {})})
    return written.scalar_one_or_none() is not None


def lift(connection: Connection, key: str, arm: str | None = None) -> int:
    """Take back what was ruled about an arm, or about all; returns how many words that were."""
    return connection.execute(LIFT, {"key": key, "arm": arm}).rowcount
