"""A whole segment task of 16 points and 3 layers: in a worker that is warm, and in a fresh one.

    python -m tests.bench.quantum.task

On an embedded Postgres, from the stored coreset to every subscriber's label (stages cut and assign);
wall and CPU seconds. The first task of a process imports cirq and numba, and loads or compiles the
kernels; it is reported apart.
"""

from __future__ import annotations

import datetime as dt
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from models.migrate import migrate
from models.session import Database
from tasks.quantum import store
from tasks.quantum.request import Request
from workers.embedded.postgres import EmbeddedPostgres

ROUNDS = 5


def one(database: Database, name: str, backend: str) -> dict[str, float]:
    """Seconds of a task: the coreset stage, then the segment task."""
    from tasks.quantum import runs

    at = dt.datetime.now(dt.UTC)
    with database.transaction() as connection:
        wanted = Request(
            name, at.replace(minute=0, second=0, microsecond=0), 4, 16, 3, backend=backend
        )
        run, _ = store.ask(connection, wanted.checked())
    began = time.perf_counter()
    runs.work(database, ("coreset",), noisy=False, budget=600)
    reduced = time.perf_counter()
    cpu = time.process_time()
    while True:
        with database.transaction() as connection:
            taken = store.take_one(connection, run)
        assert taken is not None
        if taken.stage == "judge":
            break
        runs.advance(database, taken)
    ended = time.perf_counter()
    with database.transaction() as connection:
        store.move(connection, taken, "refused", why="only its time was wanted")
    return {
        "coreset": reduced - began, "task": ended - reduced, "task_cpu": time.process_time() - cpu
    }  # fmt: skip


def main() -> None:
    """Print everything as JSON."""
    import structlog

    from tasks.audience.settings import load
    from workers.demo import story

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    import os

    os.environ.setdefault("DRIPFLEET_SECRET_ADDRESS", "a secret of the benchmark")
    load()
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        server = EmbeddedPostgres.start(Path(folder) / "pg")
        try:
            database = Database(server.url)
            migrate(database)
            story.bring_in(database, None, lambda text: None)
            found: dict[str, Any] = {}
            for backend in ("engine", "cirq"):
                first = one(database, f"{backend}-first", backend)
                warm = [one(database, f"{backend}-{k}", backend) for k in range(ROUNDS)]
                found[backend] = {
                    "first": {name: round(value, 2) for name, value in first.items()},
                    "warm": {
                        name: round(statistics.median(each[name] for each in warm), 2)
                        for name in first
                    },
                }
            database.close()
        finally:
            server.stop(immediate=True)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
