"""How fast the book is scored, and how long one waits for a single score meanwhile.

    python -m tests.bench.scored_book [--subscribers 1000000] [--events 20000000] [--json]

A training on a sample of the book; then everybody is scored twice from Postgres and written back (first
new rows, then updates), and the processor time of this process and of Postgres are added up: rows a
second a core is rows over their sum. Then a fleet scores the same book while single scores are asked
for through their own queue, from the request's row to the answer's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is first imported

import numpy as np
import structlog

from models.migrate import migrate
from models.session import Database
from tasks import names
from tasks.base import ring
from tasks.churn import requests, runs, scoring, store, trainings
from tasks.churn.settings import ChurnSettings
from tests.bench import large_book
from tests.bench.cpu_time import OURSELVES, cpu_seconds, used_between
from workers.celery import build
from workers.cli.render import number, say
from workers.embedded.stack import Stack
from workers.settings import RedisSettings
from workers.supervisor import Fleet

ASKS = 1000
WARM = 30  # asked before the clock runs: each child reads its model once
POLL = 0.005


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--subscribers", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--kind", default="logistic", help="of the model that scores")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    with (
        tempfile.TemporaryDirectory(prefix="df") as folder,
        Stack(environ={**plain, "DRIPFLEET_HOME": folder}) as stack,
    ):
        database = Database(stack.database_url)
        migrate(database)
        say(f"{number(asked.subscribers)} subscribers, {number(asked.events)} events")
        large_book.fill(database, asked.subscribers, asked.events)
        found: dict[str, Any] = {"subscribers": asked.subscribers, "events": asked.events}
        began = time.monotonic()
        trained = trainings.train(
            database, "churn", {"kinds": [asked.kind], "promote": True}, ChurnSettings(), say=say
        )
        found["training_seconds"] = round(time.monotonic() - began, 1)
        found["trained_on"] = trained.manifest["report"]["rows"]
        postgres = stack.home.postgres().pid
        for what in ("new", "again"):
            found[what] = book(database, postgres)
            say(f"scored, {what}: {found[what]}")
        found["single"] = singles(stack, database, asked.subscribers)
        database.close()
    sys.stdout.write(json.dumps(found, indent=None if asked.json else 1) + "\n")
    return 0


def book(database: Database, postgres: int) -> dict[str, float]:
    """Score everybody here; rows a second, and a core."""
    with database.transaction() as connection:
        artifact = store.champions(connection)["churn"]
        run, _ = runs.open_run(connection, "churn", artifact, ChurnSettings().range)
    before, began = cpu_seconds({"postgres": postgres}), time.monotonic()
    told = scoring.work(database, lambda: False)
    seconds = time.monotonic() - began
    used = used_between(before, cpu_seconds({"postgres": postgres}))
    with database.transaction() as connection:
        assert runs.progress(connection, run).state == "done", (
            "a run that is not whole is no figure"
        )
    return {
        "rows": told["rows"],
        "rows_per_second": round(told["rows"] / seconds),
        "rows_per_second_per_core": round(told["rows"] / sum(used.values())),
        "postgres_cpu_seconds": round(used["postgres"], 1),
        "worker_cpu_seconds": round(used[OURSELVES], 1),
    }


def singles(stack: Stack, database: Database, subscribers: int) -> dict[str, float]:
    """Ask for single scores through their queue while a fleet scores the book; milliseconds."""
    fleet = Fleet(stack, pools=("sequence", "churn"), flower=False)
    app = build(None, RedisSettings.model_validate({"redis_url": stack.redis_url}))
    waits: list[float] = []
    try:
        fleet.start()
        fleet.wait_ready()
        for n in range(WARM + ASKS):
            _keep_busy(database)
            subscriber = 1 + n * 2311 % subscribers
            began = time.perf_counter()
            requests.ask(database, "churn", subscriber)
            ring(names.CHURN_ONE, names.tick())
            while requests.answered(database, "churn", subscriber).waiting:
                time.sleep(POLL)
                assert time.perf_counter() - began < 60, "no answer within a minute"
            if n >= WARM:
                waits.append((time.perf_counter() - began) * 1000)
            fleet.poll()
    finally:
        app.close()
        fleet.hurry()
        fleet.stop()
    p50, p95, p99 = np.percentile(waits, [50, 95, 99])
    return {
        "asked": len(waits),
        "p50_ms": round(p50, 1),
        "p95_ms": round(p95, 1),
        "p99_ms": round(p99, 1),
    }


def _keep_busy(database: Database) -> None:
    """Open a run of the whole book where none is."""
    with database.transaction() as connection:
        if runs.waiting(connection) == 0:
            artifact = store.champions(connection)["churn"]
            runs.open_run(connection, "churn", artifact, ChurnSettings().range)
    ring(names.CHURN_RANGE, names.tick())


if __name__ == "__main__":
    sys.exit(main())
