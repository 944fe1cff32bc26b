"""Weights of arms that the fleet moves by itself, once an hour: `allocate: thompson`."""

from __future__ import annotations

import json
from typing import Any

import structlog
from sqlalchemy import Connection, text

from models.session import Database
from tasks.experiment.weighted import Spans, thompson
from tasks.sequence.experiments import every
from tasks.sequence.trials import key_of, rulings

# Those whose hour is not over are left alone, and one process at a time looks.
STALE = text("""
SELECT pg_try_advisory_xact_lock(hashtext('experiment'), hashtext(:key)) AND NOT EXISTS (
    SELECT FROM experiment_allocation
    WHERE experiment_key = :key AND at > clock_timestamp() - interval '1 hour')
""")
COUNTS = text("""
SELECT e.shares, a.arm, count(*) AS people,
    count(c.enrollment_id) FILTER (WHERE c.at > a.at) AS converted
FROM experiment_epoch e
JOIN experiment_assignment a ON a.epoch_id = e.id
LEFT JOIN conversion c ON c.enrollment_id = a.enrollment_id
WHERE e.experiment_key = :key GROUP BY e.id, a.arm ORDER BY e.id, a.arm
""")
MOVE = text("""
INSERT INTO experiment_allocation (experiment_key, weights) VALUES (:key, CAST(:weights AS jsonb))
ON CONFLICT (experiment_key) DO UPDATE SET weights = excluded.weights, at = clock_timestamp()
""")

log = structlog.get_logger()


def move(database: Database) -> int:
    """Move the weights of the experiments whose turn it is; returns how many."""
    moved = 0
    with database.transaction() as connection:
        for sequence, step, current in every(connection):
            key = key_of(sequence.key, step.id)
            if not current or step.allocate != "thompson":
                continue
            ruled = rulings(connection, [key]).get(key)
            if ruled is not None and ruled.chosen is not None:
                continue
            if not connection.execute(STALE, {"key": key}).scalar_one():
                continue
            open_ = step.shares(ruled.stopped if ruled else ())
            weights = thompson(_spans(connection, key, list(open_)), key)
            if weights is None or len(open_) < 2:
                continue
            connection.execute(MOVE, {"key": key, "weights": json.dumps(weights)})
            log.info("experiment_weights_moved", experiment=key, weights=weights)
            moved += 1
    return moved


def _spans(connection: Connection, key: str, arms: list[str]) -> dict[str, Spans]:
    """By arm: share, people and conversions of each epoch in which it was open."""
    found: dict[str, list[tuple[float, int, int]]] = {arm: [] for arm in arms}
    rows: Any = connection.execute(COUNTS, {"key": key})
    for row in rows:
        if row.arm in found and row.shares.get(row.arm):
            share = row.shares[row.arm] / sum(row.shares.values())
            found[row.arm].append((share, row.people, row.converted))
    return dict(found)
