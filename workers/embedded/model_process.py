"""The model server as a process of its own, started, found again and stopped like the others."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.errors import Misconfigured
from workers.embedded import announced, launch

READY = "model.json"


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
    batch: float = 0.0,
    expire: float = 0.0,
    log_file: Path | None = None,
) -> EmbeddedModel:
    """Start a model server that keeps its address in `folder`, or attach to the one that has it.

    Args:
        folder: where it writes that it listens.
        port: wished for; another free one is taken if this is in use.
        latency: as its command line has it, and so the next two; one attached to keeps its own.
        fail: shares of codes.
        garbage: share of wrong answers.
        batch: seconds that a batch takes.
        expire: share of a batch's lines without an answer.
        log_file: default ``<folder>/model.log``.

    Raises:
        Misconfigured: it does not come up.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log_file = log_file or folder / "model.log"
    ready = folder / READY
    with launch.locked(folder / "model.lock"):
        found = announced.attach(EmbeddedModel, ready)
        if found is not None:
            return found
        argv = [sys.executable, "-P", "-m", "workers.embedded.model_server"]
        argv += ["--ready-file", str(ready), "--latency", str(latency)]
        argv += ["--fail", fail, "--garbage", str(garbage)]
        argv += ["--batch", str(batch), "--expire", str(expire)]
        offset = log_file.stat().st_size if log_file.exists() else 0
        found = announced.start(EmbeddedModel, ready, argv, port, log_file)
        if found is not None:
            return found
    talk = launch.talk_since(log_file, offset).strip().splitlines()
    raise Misconfigured(
        f"The model server did not come up: {talk[-1] if talk else 'no reason'}. See {log_file}, or"
        " set DRIPFLEET_MODEL_URL to a server of your own."
    )
