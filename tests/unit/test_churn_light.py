"""Without the extra `ml` the fleet, its command line and the demo's story are whole but for scores."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tasks.churn import entry
from tasks.churn.lanes import Lanes
from tasks.errors import Misconfigured

EXTRA = ("numpy", "pandas", "scipy", "sklearn", "skops", "matplotlib")
LIGHT = (
    "tasks.churn.entry", "tasks.churn.trainings", "tasks.churn.runs", "tasks.churn.store",
    "tasks.churn.requests", "tasks.churn.uplift_name", "workers.demo.scores", "workers.cli.churn_people",
)  # fmt: skip


def test_what_runs_without_the_extra_imports_none_of_it() -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({EXTRA!r}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked}; import {', '.join(LIGHT)}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_task_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "find_spec", lambda name: None)
    for task in (entry.score, entry.score_ranges, entry.score_one, entry.fit, entry.drift):
        with pytest.raises(
            Misconfigured, match=r"need the extra `ml`.*pip install dripfleet\[ml\]"
        ):
            task.run()


def test_of_two_children_one_is_always_free() -> None:
    """Locks belong to a process, so the other child is another process."""
    lanes = Lanes()
    code = (
        "import fcntl, sys\n"
        "try: fcntl.lockf(0, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[1]))\n"
        "except OSError: sys.exit(3)"
    )

    def elsewhere(lane: int) -> int:
        again = [sys.executable, "-c", code, str(lane)]
        return subprocess.run(again, stdin=lanes._file, check=False).returncode

    with lanes.take(2) as free:
        assert free and elsewhere(0) == 3
    assert elsewhere(0) == 0
    with lanes.take(3) as free:
        assert free and (elsewhere(0), elsewhere(1)) == (3, 0), "of three, two may be long at it"
