"""Mixed quantum work with faults injected into it: everything ends in a result or a clear refusal.

    python -m tests.chaos.quantum_storm --tasks 200

Needs no server: it starts a Postgres of its own. A task is a segment run or a graph to be solved;
what goes wrong is drawn with it: a kill in the middle of a step, connections that break, a vendor
who refuses, breaks or never finishes, missing credentials, too many qubits, odd graphs and shops.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import networkx as nx
import numpy as np
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from models.session import Database
from tasks.errors import Permanent, Transient
from tasks.quantum import runs, store
from tasks.quantum.engine import problem_of, trial
from tasks.quantum.request import Request
from tests.unit.quantum.vendors import Fault, vendor

STAGES = ("coreset", "cut", "assign", "judge")
FAULTS = ("", "", "killed", "killed", "connection", "transient", "poison")
BACKENDS = (
    "engine", "engine", "engine", "cirq", "cirq", "qsim", "ionq-local", "ionq", "aqt", "ibm",
    "nobody",
)  # fmt: skip
VENDORS: tuple[Fault, ...] = ("", "refuses", "never", "breaks", "garbage")
ROUNDS = 40


class Killed(BaseException):
    """Stands for kill -9: what was not committed is gone."""


@dataclass(frozen=True)
class End:
    """How a task ended: `done`, `refused` with its sentence, or what went wrong."""

    kind: str
    sentence: str

    @property
    def clear(self) -> bool:
        """A result, or a refusal that says something."""
        vague = ("Traceback", "AssertionError", "KeyError", "AttributeError", "IndexError")
        return self.kind == "done" or (
            self.kind == "refused"
            and len(self.sentence) > 20
            and not any(word in self.sentence for word in vague)
        )


def storm(database: Database, tasks: int, seed: int = 0) -> list[tuple[dict[str, Any], End]]:
    """So many tasks, drawn from a seed, and how each ended."""
    rng = np.random.default_rng(seed)
    told = []
    for number in range(tasks):
        what: dict[str, Any]
        if rng.random() < 0.3:
            graph, what = odd_graph(rng)
            told.append((what, solved(graph)))
        else:
            what = {
                "segment": f"s{number}",
                "backend": str(rng.choice(BACKENDS)),
                "points": int(rng.choice([3, 4, 6, 6, 8, 10, 21])),
                "k": int(rng.choice([2, 2, 3, 3, 4])),
                "layers": int(rng.integers(1, 4)),
                "objective": str(rng.choice(["scatter", "modularity"])),
                "fault": str(rng.choice(FAULTS)),
                "vendor": str(rng.choice(VENDORS)),
                "at": int(rng.integers(1, 5)),
                "shop": str(rng.choice(["usual", "usual", "one", "same", "nobody"])),
            }
            told.append((what, segmented(database, what, int(rng.integers(2**31)))))
    return told


def odd_graph(rng: np.random.Generator) -> tuple[nx.Graph[Any], dict[str, Any]]:
    """A graph that is odd in one way."""
    kind = str(rng.choice(["usual", "negative", "equal", "nan", "one", "large", "none", "words"]))
    n = {"one": 1, "large": 40, "none": 0}.get(kind, int(rng.integers(2, 11)))
    graph: nx.Graph[Any] = nx.complete_graph(n)
    for a, b in graph.edges:
        graph[a][b]["weight"] = {"equal": 1.0, "negative": -float(rng.random())}.get(
            kind, float(rng.random())
        )
    if kind in ("nan", "words"):
        graph.add_edge(0, 1, weight=float("nan") if kind == "nan" else "much")
    return graph, {"solve": kind, "n": n}


def solved(graph: nx.Graph[Any]) -> End:
    """Solve a graph."""
    try:
        held = trial(problem_of(graph), 2, shots=64, seeds=2)
    except Permanent as fault:
        return End("refused", str(fault))
    except Exception as fault:
        return End("broken", repr(fault))
    assert held.optimum is not None and held.best.value <= held.optimum.value + 1e-9
    return End("done", held.verdict.name)


def segmented(database: Database, what: dict[str, Any], seed: int) -> End:
    """Ask for a segment and work on it through its faults until it ends."""
    with ExitStack() as stack:
        environment = stack.enter_context(hardware(what))
        stack.enter_context(mock.patch.dict(os.environ, environment))
        stack.enter_context(mock.patch.dict(os.environ, {"DRIPFLEET_QUANTUM_JOB_WAIT": "1"}))
        as_of = furnish(database, what["shop"], seed)
        try:
            wanted = Request(
                what["segment"], as_of, what["k"], what["points"], what["layers"], what["objective"],
                what["backend"], 64, 2,
            ).checked()  # fmt: skip
        except Permanent as fault:
            return End("refused", str(fault))
        with database.transaction() as connection:
            run, _ = store.ask(connection, wanted)
        break_ = breaking(database, what)
        for _ in range(ROUNDS):
            with mock.patch.object(store, "put_step", break_):
                try:
                    runs.work(database, STAGES, noisy=False, budget=30)
                    runs.work(database, STAGES, noisy=True, budget=30)
                except Killed:
                    database.engine.dispose()
                except Exception as fault:
                    return End("broken", repr(fault))
            with database.transaction() as connection:
                row = store.found(connection, None, run)
                # Time passes: leases end and pauses are over.
                connection.execute(
                    text("UPDATE segment_run SET retry_at = NULL, lease_until = NULL")
                )
            if row.stage == "done":
                return End("done", row.report["verdict"])
            if row.stage == "refused":
                return End("refused", row.why)
        return End("never ended", row.why or row.stage)


def breaking(database: Database, what: dict[str, Any]) -> Callable[..., bool]:
    """`store.put_step`, with the fault of this task at its place."""
    real, calls = store.put_step, Counter[str]()

    def put(connection: Any, run: Any, step: str, value: Any) -> bool:
        calls["all"] += 1
        if what["fault"] == "poison" and step.startswith("cut"):
            raise Killed
        if calls["all"] == what["at"]:
            if what["fault"] == "killed":
                raise Killed
            if what["fault"] == "transient":
                raise Transient("the disk was full for a moment")
            if what["fault"] == "connection":
                done = real(connection, run, step, value)
                raise OperationalError("COMMIT", {}, Exception(f"the connection broke: {done}"))
        return real(connection, run, step, value)

    return put


@contextmanager
def hardware(what: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Vendors' credentials and servers of ours, where the task has any."""
    if what["backend"] == "nobody" or what["backend"] not in ("ionq", "aqt"):
        yield {}
        return
    with vendor(what["vendor"]) as server:
        yield {
            "IONQ_API_KEY": "key", "IONQ_HOST": server.url, "AQT_TOKEN": "token",
            "AQT_WORKSPACE": "w", "AQT_RESOURCE": "r", "AQT_HOST": server.url,
        }  # fmt: skip


def furnish(database: Database, shop: str, seed: int) -> dt.datetime:
    """A cutoff that sees a shop of this kind; each kind's events stand in a month of their own."""
    year = {"nobody": 1999, "one": 2003, "same": 2007, "usual": 2011}[shop]
    at = dt.datetime(year, 6, 1, tzinfo=dt.UTC)
    people = {"nobody": 0, "one": 1, "same": 12, "usual": 60}[shop]
    rng = np.random.default_rng(seed)
    with database.transaction() as connection:
        connection.execute(text("DELETE FROM event"))
        ids = connection.execute(text("SELECT id FROM subscriber ORDER BY id")).scalars().all()
        for who in ids[:people]:
            many, worth, ago = (1, 5.0, 9.0) if shop == "same" else (
                int(rng.integers(1, 6)), float(rng.exponential(40)), float(rng.exponential(90))
            )  # fmt: skip
            connection.execute(
                text(
                    "INSERT INTO event (subscriber_id, name, occurred_at, properties)"
                    " SELECT :id, 'purchase', :at - make_interval(secs => 86400 * (:ago + n)),"
                    " jsonb_build_object('amount', CAST(:worth AS float8)) FROM generate_series(1, :many) n"
                ),
                {"id": who, "at": at, "ago": ago, "worth": worth, "many": many},
            )
    return at


def summary(told: list[tuple[dict[str, Any], End]]) -> dict[str, Any]:
    """Counts, and every task that ended in neither a result nor a clear refusal."""
    clear = sum(end.clear for _, end in told)
    return {
        "tasks": len(told),
        "clear": clear,
        "share": clear / len(told),
        "ends": dict(Counter(end.kind for _, end in told)),
        "unclear": [{**what, "end": end.kind, "said": end.sentence} for what, end in told if not end.clear],
    }  # fmt: skip


def main() -> int:
    """Run it from the command line; 1 where less than 99 % ended clearly."""
    from models.migrate import migrate
    from tests.live import seeds
    from workers.embedded.postgres import EmbeddedPostgres

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tasks", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        server = EmbeddedPostgres.start(Path(folder) / "pg", settings={"fsync": "off"})
        try:
            database = Database(server.url)
            migrate(database)
            seeds.subscribers(database, 60)
            found = summary(storm(database, given.tasks, given.seed))
            database.close()
        finally:
            server.stop(immediate=True)
    sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return 0 if found["share"] >= 0.99 else 1


if __name__ == "__main__":
    sys.exit(main())
