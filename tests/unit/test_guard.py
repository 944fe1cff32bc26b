"""The rooms have ordinary names: somebody else's is refused, in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Import our `workers` where `folder` stands before it on the path."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, *options, "-c", "import workers"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("room", ["tasks", "models", "schedules", "templates"])
def test_a_strange_room_stops_the_start_with_one_sentence(tmp_path: Path, room: str) -> None:
    (tmp_path / room).mkdir()
    (tmp_path / room / "__init__.py").write_text("")
    done = run(tmp_path)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"The package `{room}` is somebody else's ({tmp_path / room})")


def test_a_single_strange_module_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("")
    done = run(tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


def test_our_own_rooms_pass_in_any_working_directory(tmp_path: Path) -> None:
    (tmp_path / "tasks_of_mine.py").write_text("")
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
