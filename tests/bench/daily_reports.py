"""Experiments looked at every day, through Postgres: arms as the planner gives them, reports as made.

    python -m tests.bench.daily_reports [--runs 60] [--people 6000] [--looks 30]

Each run is an experiment of its own on an embedded Postgres: every day people are drawn into arms
(`ExperimentStep.draw`) and written down (`trials.write`), some convert, and `experiment_report.report`
says what it shows. Without an effect at three base rates, then with a real gain at the planned number of
people. Each verdict is also held against one of counts that were kept here. About two seconds a run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from schedules.arms import ExperimentStep
from schedules.loader import loads
from tasks.experiment.power import sequential_per_arm, sequential_power
from tasks.experiment.verdict import Count, Epoch, Rules, judge
from tasks.sequence import trials
from tasks.sequence.experiment_report import report
from tasks.sequence.planned import Assigned
from tests.live import seeds
from workers.embedded.postgres import EmbeddedPostgres

FILE = """
key: {key}
title: A trial
class: marketing
topic: news
entry: {{manual: true}}
goal: {{event: purchase, window: 60d}}
steps:
  - id: split
    experiment: {{arms: {{a: 50, b: 50}}, stop: {{min_per_arm: 1, effect: {effect}}}}}
    paths: {{a: end, b: end}}
  - {{id: end, exit: {{reason: completed}}}}
"""
CONVERT = """
INSERT INTO conversion (enrollment_id, sequence_key, subscriber_id, event_id, occurred_at)
SELECT e.id, e.sequence_key, e.subscriber_id, 1, clock_timestamp() FROM enrollment e
WHERE e.sequence_key = :key AND e.subscriber_id = ANY(:ids)
"""
ENROLLED = (
    "SELECT id, subscriber_id, sequence_key FROM enrollment WHERE sequence_key = :key ORDER BY id"
)


def lived(
    database: Database, key: str, ids: list[int], rates: tuple[float, float], looks: int,
    seed: int, effect: float = 0.1,
) -> Iterator[str]:  # fmt: skip
    """What the report answers on each day, until it has found something.

    Args:
        database: with those subscribers.
        key: of a sequence that there is not yet.
        ids: who comes, over all days, in this order.
        rates: of the control and of the other arm.
        looks: days.
        seed: of who converts.
        effect: that the test is quickest for.

    Raises:
        AssertionError: the report counts otherwise than we do.
    """
    source = FILE.format(key=key, effect=effect)
    step = loads(source, "trial.yaml").step("split")
    assert isinstance(step, ExperimentStep)
    seeds.enroll(database, seeds.sequence(database, source), ids)
    with database.transaction() as connection:
        rows = {row.subscriber_id: row for row in connection.execute(text(ENROLLED), {"key": key})}
    chance, shares = np.random.default_rng(seed), step.shares()
    counts = {"a": [0, 0], "b": [0, 0]}
    for day in range(looks):
        today = ids[len(ids) * day // looks : len(ids) * (day + 1) // looks]
        arms = {who: step.draw(key, who, shares) for who in today}
        bought = [who for who in today if chance.random() < rates[arms[who] == "b"]]
        for who, arm in arms.items():
            counts[arm][0] += 1
            counts[arm][1] += who in bought
        with database.transaction() as connection:
            made = [
                (_row(rows[who]), Assigned(step.id, arm, 0.5, shares)) for who, arm in arms.items()
            ]
            trials.write(connection, made)
            connection.execute(text(CONVERT), {"key": key, "ids": bought})
        with database.snapshot() as connection:
            told = report(connection, f"{key}/split").verdict
        ours = {name: Count(n, n, x) for name, (n, x) in counts.items()}
        kept = judge("a", ["a", "b"], [Epoch(shares, ours)], Rules(least=1, effect=effect))
        assert told == kept, f"{key}, day {day}: {told} is told, {kept} was counted"
        yield told.answer
        if told.answer in ("winner", "control"):
            return


def found(*lived_: Any, **more: Any) -> bool:
    """Whether any of the days found something."""
    return any(answer in ("winner", "control") for answer in lived(*lived_, **more))


def _row(row: Any) -> Any:
    return SimpleNamespace(
        id=row.id, subscriber_id=row.subscriber_id, sequence_key=row.sequence_key
    )


def main() -> None:
    """Print a line a rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--people", type=int, default=6000)
    parser.add_argument("--looks", type=int, default=30)
    asked = parser.parse_args()
    base, target, effect = 0.2, 0.25, 0.25
    planned = sequential_per_arm(base, target, looks=asked.looks, effect=effect)
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        off = {"fsync": "off", "full_page_writes": "off"}
        server = EmbeddedPostgres.start(Path(folder) / "pg", settings=off)
        try:
            database = Database(server.url)
            migrate(database)
            ids = seeds.subscribers(database, max(asked.people, 2 * planned))
            for rate in (0.02, 0.1, 0.4):
                hits = sum(
                    found(database, f"equal-{100 * rate:.0f}-{run}", ids[: asked.people],
                          (rate, rate), asked.looks, run)
                    for run in range(asked.runs)
                )  # fmt: skip
                _say(f"equal arms at {rate:.0%}: found in {hits} of {asked.runs}")
            hits = sum(
                found(database, f"gain-{run}", ids[: 2 * planned], (base, target), asked.looks, run,
                      effect=effect)
                for run in range(asked.runs)
            )  # fmt: skip
            promised = sequential_power(base, target, planned, looks=asked.looks, effect=effect)
            _say(
                f"{base:.0%} → {target:.0%}, {planned} an arm: found in {hits} of {asked.runs},"
                f" promised {promised:.1%}"
            )
            database.close()
        finally:
            server.stop(immediate=True)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
