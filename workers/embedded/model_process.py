"""The model server as a process of its own, started, found again and stopped like the others."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from tasks.errors import Misconfigured
from workers.embedded import launch

READY = "model.json"
START_SECONDS = 30.0


@dataclass
class EmbeddedModel(launch.Service):
    """A model server in a process of its own; `url` is ``http://127.0.0.1:port/v1``."""

    kind: ClassVar[str] = "model"


def start_model(
    folder: Path,
    *,
    port: int = 0,
    latency: float = 0.0,
    fail: str = "",
    garbage: float = 0.0,
    log_file: Path | None = None,
) -> EmbeddedModel:
    """Start a model server that keeps its address in `folder`, or attach to the one that has it.

    Args:
        folder: where it writes that it listens.
        port: wished for; another free one is taken if this is in use.
        latency: as its command line has it, and so the next two; one attached to keeps its own.
        fail: shares of codes.
        garbage: share of wrong answers.
        log_file: default ``<folder>/model.log``.

    Raises:
        Misconfigured: it does not come up.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log_file = log_file or folder / "model.log"
    with launch.locked(folder / "model.lock"):
        found = _attach(folder)
        if found is not None:
            return found
        (folder / READY).unlink(missing_ok=True)
        argv = [sys.executable, "-P", "-m", "workers.embedded.model_server"]
        argv += ["--ready-file", str(folder / READY), "--latency", str(latency)]
        argv += ["--fail", fail, "--garbage", str(garbage)]
        offset = log_file.stat().st_size if log_file.exists() else 0
        for wished in (port, 0) if port else (0,):
            found = _launch(folder, [*argv, "--port", str(wished)], log_file)
            if found is not None:
                return found
    talk = launch.talk_since(log_file, offset).strip().splitlines()
    raise Misconfigured(
        f"The model server did not come up: {talk[-1] if talk else 'no reason'}. See {log_file}, or"
        " set DRIPFLEET_MODEL_URL to a server of your own."
    )


def answering(url: str, pid: int) -> bool:
    """Whether it is the process `pid` that listens at `url`."""
    return launch.listens(pid, urlsplit(url).port or 0)


def _launch(folder: Path, argv: Sequence[str], log_file: Path) -> EmbeddedModel | None:
    child = launch.spawn(argv, log_file=log_file)
    deadline = time.monotonic() + START_SECONDS
    try:
        while child.poll() is None and time.monotonic() < deadline:
            found = _attach(folder)
            if found is not None and found.pid == child.pid:
                found.owned, found.child = True, child
                return found
            time.sleep(launch.POLL_SECONDS)
    except BaseException:
        launch.discard(child)
        raise
    launch.discard(child)
    return None


def _attach(folder: Path) -> EmbeddedModel | None:
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        ready = json.loads((folder / READY).read_text(encoding="utf-8"))
        server = EmbeddedModel(ready["url"], ready["pid"], ready["started"], owned=False)
        if server.alive() and answering(server.url, server.pid):
            return server
    return None
