"""`python -m tests.mutation [TARGET…]`: which guards could go without a test that notices.

Each mutant is tried in a copy of the tree, against the tests that ought to notice it, the quickest
first, on a Postgres of its own. Prints a line a survivor, and the score. An hour for all targets.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutants import Mutant, of_python, of_sql
from workers.embedded.postgres import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
STORM = ("tests/model/test_late_words.py", "tests/model/test_machine.py", "-k", "not order")
DELIVERY = ("tests/live/test_faults.py", "tests/live/test_poison.py", "tests/live/test_delivery.py")


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
    "verify": Target(
        ("tasks/upkeep/tries.py", "tasks/upkeep/standing.py", "tasks/upkeep/far_end.py"),
        of_sql,
        (("tests/live/test_verify.py",),),
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
    parser.add_argument("--list", action="store_true", help="name the mutants, try none")
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"no target {sorted(unknown)[0]!r}; there are {', '.join(TARGETS)}")
    survivors, tried = 0, 0
    with tempfile.TemporaryDirectory(prefix="dfm") as folder:
        tree = Path(folder) / "tree"
        _copy(tree)
        server = EmbeddedPostgres.start(
            Path(folder) / "pg", settings={"fsync": "off", "max_connections": "100"}
        )
        try:
            for name in asked.targets or TARGETS:
                began, lived, count = time.monotonic(), 0, 0
                runs = TARGETS[name].runs[: 1 if asked.quick else None]
                for mutant in _mutants(TARGETS[name]):
                    if asked.match not in str(mutant):
                        continue
                    count += 1
                    if asked.list:
                        print(mutant)
                    elif not _noticed(tree, mutant, runs, server.url):
                        lived += 1
                        print(f"survived  {mutant}", flush=True)
                if not asked.list:
                    spent = time.monotonic() - began
                    print(f"{name}: {count - lived} of {count} noticed, {spent:.0f} s", flush=True)
                survivors, tried = survivors + lived, tried + count
        finally:
            server.stop(immediate=True)
    if tried and not asked.list:
        print(f"score: {tried - survivors} of {tried}, {(tried - survivors) / tried:.1%}")
    return 1 if survivors else 0


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


def _noticed(tree: Path, mutant: Mutant, runs: tuple[tuple[str, ...], ...], url: str) -> bool:
    """Whether one of the runs fails with it."""
    place = tree / mutant.path
    kept = place.read_bytes()
    place.write_text(mutant.source)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("DRIPFLEET_", "PYTHON"))},
        "DRIPFLEET_TEST_DATABASE_URL": url,
        "PYTHONPYCACHEPREFIX": str(tree / ".cache"),
    }
    try:
        for run in runs:
            paths = [
                each for each in run if not each.startswith("tests/") or (tree / each).exists()
            ]
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "--timeout=100", *paths],
                cwd=tree, env=environment, capture_output=True, check=False,
            )  # fmt: skip
            if done.returncode:
                return True
        return False
    finally:
        place.write_bytes(kept)


if __name__ == "__main__":
    sys.exit(main())
