"""One process under the supervisor, when it dies at the wrong moment."""

from __future__ import annotations

import os
import time
from pathlib import Path

from workers.child import Child


def test_a_child_that_has_just_died_is_stopped_like_any_other(tmp_path: Path) -> None:
    said: list[str] = []
    child = Child(
        "short",
        [],
        environment=lambda: dict(os.environ),
        log_file=tmp_path / "log",
        say=said.append,
        program=("-c", "raise SystemExit(3)"),
    )
    child.start()
    assert child.pid is not None
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.ask_to_stop()
    deadline = time.monotonic() + 10
    while not child.ended():
        assert time.monotonic() < deadline
    assert said == ["short ended with 3 when it was asked to stop"]
