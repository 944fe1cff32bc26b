"""`python -m tests.mutation [TARGET…]`: which guards could go without a test that notices.

Each mutant is tried in a copy of the tree, against the tests that ought to notice it, the quickest
first, on a Postgres of its own, in a child of a process that has the libraries loaded. Prints a line
a survivor, and the score. What no test can notice stands in `tests.mutation.equivalent`, with the
reason, and is not counted; nor is what is no statement any more. `--of FILE` tries the survivors
that an earlier run printed into it. An hour for all targets.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest

from models.migrate import migrate
from models.session import Database
from tests.mutation.equivalent import reason_of
from tests.mutation.mutants import Mutant, of_python, of_sql, unsaid
from workers.embedded.postgres import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
OURS = ("models", "schedules", "tasks", "templates", "tests", "workers")
LIBRARIES = (
    "alembic.command", "celery", "jinja2.sandbox", "psycopg", "psycopg.types.json",
    "pydantic_settings", "redis", "sqlalchemy.dialects.postgresql.psycopg", "typer.testing",
)  # fmt: skip
FATES = ("noticed", "survived", "equivalent", "no SQL")
_SECONDS = count(1_700_000_000)
CASES = tuple(f"tests/model/test_{name}.py" for name in ("late_words", "permission", "looks"))
STORM = (*CASES, "tests/model/test_machine.py", "-k", "not order")
DELIVERY = (
    "tests/live/test_stop_races.py",
    "tests/live/test_faults.py",
    "tests/live/test_poison.py",
    "tests/live/test_delivery.py",
)


@dataclass(frozen=True, slots=True)
class Target:
    """Files, how they are changed, and the test runs that ought to notice, the quickest first."""

    paths: tuple[str, ...]
    change: Callable[[str, str], Iterator[Mutant]]
    runs: tuple[tuple[str, ...], ...]


TARGETS = {
    "cycle": Target(("tasks/moves/cycle.py",), of_sql, (STORM, DELIVERY)),
    "claim": Target(("tasks/moves/claim.py",), of_sql, (STORM, DELIVERY)),
    "release": Target(("tasks/moves/release.py",), of_sql, (STORM, DELIVERY)),
    "reap": Target(
        ("tasks/moves/reap.py", "tasks/moves/doubt.py", "tasks/moves/statement.py"),
        of_sql,
        (STORM, (*DELIVERY, "tests/live/test_evidence.py")),
    ),
    "operate": Target(
        ("tasks/moves/operate.py", "tasks/moves/settle.py"),
        of_sql,
        (("tests/live/test_operate.py",), STORM),
    ),
    "evidence": Target(
        ("tasks/moves/evidence.py",), of_sql, (("tests/live/test_evidence.py",), STORM)
    ),
    "stop": Target(
        ("tasks/moves/stop.py",),
        of_sql,
        (("tests/live/test_stop.py",), ("tests/live/test_stop_races.py",), STORM),
    ),
    "quarantine": Target(
        ("tasks/moves/plan.py", "tasks/moves/quarantine.py"),
        of_sql,
        (("tests/live/test_quarantine.py",), DELIVERY),
    ),
    "verify": Target(
        tuple(f"tasks/upkeep/{name}.py" for name in ("tries", "standing", "capped", "far_end")),
        of_sql,
        (("tests/live/test_verify.py",),),
    ),
    "engine": Target(
        tuple(f"tasks/sequence/{name}.py" for name in ("engine", "gates", "walk", "judgement")),
        of_python,
        (
            (
                "tests/unit/test_sequence_engine.py",
                "tests/unit/test_gates.py",
                "tests/unit/test_edit.py",
            ),
            ("tests/unit/test_simulate.py",),
        ),
    ),
    "edit": Target(
        ("tasks/sequence/edit.py",),
        of_python,
        (("tests/unit/test_edit.py",), ("tests/live/test_edit.py",)),
    ),
    "classifier": Target(
        ("tasks/send/reply.py", "tasks/send/outcome.py"),
        of_python,
        (("tests/unit/test_classifier.py",), ("tests/unit/test_transport.py",)),
    ),
}


def main() -> int:
    """Try the mutants of the targets named; exit 1 if one survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of: {', '.join(TARGETS)}; by default all")
    parser.add_argument("--match", default="", help="only mutants whose line holds this text")
    parser.add_argument("--quick", action="store_true", help="only the quickest tests of each")
    parser.add_argument("--slow", action="store_true", help="all but the quickest tests of each")
    parser.add_argument("--of", type=Path, help="only the survivors that stand in this file")
    parser.add_argument("--list", action="store_true", help="name the mutants, try none")
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"no target {sorted(unknown)[0]!r}; there are {', '.join(TARGETS)}")
    only = None if asked.of is None else set(_survivors(asked.of))
    if asked.list:
        for name in asked.targets or TARGETS:
            print(*_mutants(TARGETS[name]), sep="\n")
        return 0
    lived = tried = 0
    for library in LIBRARIES:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory(prefix="dfm") as folder:
        tree = Path(folder) / "tree"
        _copy(tree)
        server = EmbeddedPostgres.start(
            Path(folder) / "pg", settings={"fsync": "off", "max_connections": "100"}
        )
        try:
            environment = {
                "DRIPFLEET_TEST_DATABASE_URL": server.url,
                "DRIPFLEET_TEST_TEMPLATE": _template(server.url),
            }
            for name in asked.targets or TARGETS:
                began, told = time.monotonic(), dict.fromkeys(FATES, 0)
                runs = TARGETS[name].runs
                runs = runs[:1] if asked.quick else runs[1:] if asked.slow else runs
                for run in runs:
                    if said := _failed(tree, run, environment):
                        sys.exit(f"{run} fails without a mutant:\n{said}")
                for mutant in _mutants(TARGETS[name]):
                    if asked.match not in str(mutant) or (only and str(mutant) not in only):
                        continue
                    fate = "equivalent" if reason_of(mutant) else ""
                    fate = fate or _fate(tree, mutant, runs, environment)
                    told[fate] += 1
                    if fate != "noticed":
                        print(f"{fate:10}  {mutant}", flush=True)
                here = told["noticed"] + told["survived"]
                lived, tried = lived + told["survived"], tried + here
                spent = time.monotonic() - began
                print(
                    f"{name}: {told['noticed']} of {here} noticed; {told['equivalent']} equivalent,"
                    f" {told['no SQL']} no SQL, {spent:.0f} s",
                    flush=True,
                )
        finally:
            server.stop(immediate=True)
    if tried:
        print(f"score: {tried - lived} of {tried}, {(tried - lived) / tried:.1%}")
    return 1 if lived else 0


def _survivors(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        fate, _, mutant = line.partition("  ")
        if fate.strip() == "survived":
            yield mutant.strip()


def _template(url: str) -> str:
    """A migrated database, for every mutant's tests to copy."""
    name = "template_of_mutants"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    database = Database(f"{url.rpartition('/')[0]}/{name}")
    migrate(database)
    database.close()
    return name


def _mutants(target: Target) -> Iterator[Mutant]:
    for path in target.paths:
        yield from target.change(path, (ROOT / path).read_text())


def _copy(tree: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for path in filter(None, listed.stdout.split("\0")):
        if (ROOT / path).is_file():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, tree / path)


def _fate(
    tree: Path, mutant: Mutant, runs: tuple[tuple[str, ...], ...], environment: dict[str, str]
) -> str:
    """What became of it in the first run that fails; `survived`, if none does."""
    place = tree / mutant.path
    kept = place.read_bytes()
    place.write_text(mutant.source)
    # A cached bytecode is told from its source by second and size.
    os.utime(place, (next(_SECONDS),) * 2)
    try:
        for run in runs:
            said = _failed(tree, run, environment)
            if said is not None:
                return "no SQL" if unsaid(said) else "noticed"
        return "survived"
    finally:
        place.write_bytes(kept)


def _failed(tree: Path, run: tuple[str, ...], environment: dict[str, str]) -> str | None:
    """Run tests in a child that has the libraries but nothing of ours; what they said, if they failed."""
    paths = [each for each in run if not each.startswith("tests/") or (tree / each).exists()]
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if not child:
            status = 99
            try:
                for descriptor in (1, 2):
                    os.dup2(output.fileno(), descriptor)
                os.chdir(tree)
                for name in [name for name in os.environ if name.startswith("DRIPFLEET_")]:
                    del os.environ[name]
                os.environ.update(environment)
                os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
                sys.dont_write_bytecode, sys.pycache_prefix = False, str(tree / ".cache")
                sys.path[:] = [str(tree), *(p for p in sys.path if Path(p).resolve() != ROOT)]
                for name in list(sys.modules):
                    if name.partition(".")[0] in OURS:
                        del sys.modules[name]
                status = pytest.main(["-qx", "-p", "no:cacheprovider", "--timeout=100", *paths])
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(ended) == 0:
            return None
        output.seek(0)
        return output.read().decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main())
