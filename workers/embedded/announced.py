"""Servers of our own in Python: each a process that writes down where it listens, once it does."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from workers.embedded import launch

START_SECONDS = 30.0

Announced = TypeVar("Announced", bound=launch.Service)


def answering(url: str, pid: int) -> bool:
    """Whether it is the process `pid` that listens at `url` (asked of the kernel: no fault fires)."""
    return launch.listens(pid, urlsplit(url).port or 0)


def attach(kind: type[Announced], ready: Path) -> Announced | None:
    """The server that wrote the file `ready`, if that very process runs and listens still."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        said = json.loads(ready.read_text(encoding="utf-8"))
        server = kind(said["url"], said["pid"], said["started"], owned=False)
        if server.alive() and answering(server.url, server.pid):
            return server
    return None


def start(
    kind: type[Announced], ready: Path, argv: Sequence[str], port: int, log_file: Path
) -> Announced | None:
    """Start a server and wait until it has written `ready`; None: it did not come up.

    Args:
        kind: what it becomes here.
        ready: where it writes ``url``, ``pid`` and ``started``; an old one is taken away.
        argv: its command, without the port.
        port: wished for; 0: any. Another free one is taken if this is in use.
        log_file: where its output goes.
    """
    ready.unlink(missing_ok=True)
    for wished in (port, 0) if port else (0,):
        if found := _once(kind, ready, [*argv, "--port", str(wished)], log_file):
            return found
    return None


def _once(
    kind: type[Announced], ready: Path, argv: Sequence[str], log_file: Path
) -> Announced | None:
    child = launch.spawn(argv, log_file=log_file)
    deadline = time.monotonic() + START_SECONDS
    try:
        while child.poll() is None and time.monotonic() < deadline:
            found = attach(kind, ready)
            if found is not None and found.pid == child.pid:
                found.owned, found.child = True, child
                return found
            time.sleep(launch.POLL_SECONDS)
    except BaseException:
        launch.discard(child)
        raise
    launch.discard(child)
    return None
