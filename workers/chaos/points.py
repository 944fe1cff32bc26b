"""Arming a crash point in another process, and seeing that it was reached: by files in a folder.

The harness writes `FOLDER/POINT` with an action; the first process that stands at that point takes
the file by renaming it, which only one can, and does what it says.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tasks import crashpoint

Action = Literal["kill", "stop", "wait"]
WAIT_SECONDS: Final = 10.0  # a process that waits at a point goes on after this at the latest


@dataclass(frozen=True, slots=True)
class Reached:
    """A process stood at an armed point."""

    point: str
    pid: int
    go: Path


class Points:
    """The harness's side of a folder.

    Args:
        folder: made if it is not there; given to each process of the fleet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "reached").mkdir(parents=True, exist_ok=True, mode=0o700)

    def arm(self, point: str, action: Action) -> None:
        """Let the next process at `point` be killed, stopped, or held until it may `go`."""
        if point not in crashpoint.POINTS:
            raise ValueError(f"There is no crash point {point!r}; see tasks/crashpoint.py.")
        fresh = self.folder / f".{point}"
        fresh.write_text(action)
        fresh.rename(self.folder / point)

    def disarm(self, point: str) -> None:
        """Take it back, if nobody has been there."""
        (self.folder / point).unlink(missing_ok=True)

    def take(self, point: str) -> Reached | None:
        """Who was at `point` since it was armed; told once."""
        for path in sorted((self.folder / "reached").glob(f"{point}-*")):
            if path.suffix != ".go":
                told = Reached(point, int(path.name.rpartition("-")[2]), path.with_suffix(".go"))
                path.unlink()
                return told
        return None

    def await_reached(self, point: str, seconds: float) -> Reached | None:
        """Wait for somebody to stand there; None: nobody did, and it is disarmed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (reached := self.take(point)) is not None:
                return reached
            time.sleep(0.02)
        self.disarm(point)
        return self.take(point)


def listen(folder: Path) -> None:
    """Set this process's hook to the folder."""
    folder_text, reached = str(folder), folder / "reached"

    def hook(point: str) -> None:
        path = f"{folder_text}/{point}"
        if not os.path.exists(path):  # far cheaper than a rename that fails
            return
        mine = reached / f"{point}-{os.getpid()}"
        try:
            # Read first: once it has its new name the harness may take it.
            action = Path(path).read_text()
            os.rename(path, mine)
        except FileNotFoundError:
            return
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            _wait(mine.with_suffix(".go"))

    crashpoint.hook = hook


def _wait(go: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and not go.exists():
        time.sleep(0.005)
    with contextlib.suppress(FileNotFoundError):
        go.unlink()
