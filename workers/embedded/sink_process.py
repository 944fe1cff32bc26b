"""The sink as a server of its own process, started, found again and stopped like the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tasks.errors import Misconfigured
from workers.embedded import announced, launch
from workers.embedded.faults import Faults

READY = "sink.json"
STATS = "sink-stats.json"


@dataclass
class EmbeddedSink(launch.Service):
    """A sink in a process of its own; `url` is ``smtp://127.0.0.1:port``."""

    kind: ClassVar[str] = "sink"


def start_sink(
    spool: Path,
    *,
    port: int = 0,
    faults: Sequence[str] = (),
    bounce_addresses: bool = False,
    seed: int = 0,
    latency: float = 0.0,
    log_file: Path | None = None,
) -> EmbeddedSink:
    """Start a sink on `spool` in a process of its own, or attach to the one that has it.

    Args:
        spool: folder of mails, ledger, and statistics at the end (``sink-stats.json``).
        port: wished for; another free one is taken if this is in use.
        faults: rules in their written form; a sink attached to keeps its own.
        bounce_addresses: ``bounce+550@…`` is refused with that code.
        seed: of the faults' draws.
        latency: seconds between each dot and its reply.
        log_file: default ``<spool>/sink.log``.

    Raises:
        ValueError: a rule that cannot be read.
        Misconfigured: it does not come up.
    """
    Faults.parse(faults)
    spool = spool.resolve()
    spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    log_file = log_file or spool / "sink.log"
    ready = spool / READY
    with launch.locked(spool / "sink.lock"):
        found = announced.attach(EmbeddedSink, ready)
        if found is not None:
            return found
        # -P: what lies in the working directory, an operator's templates/ say, is not imported.
        argv = [sys.executable, "-P", "-m", "workers.embedded.sink", "--spool", str(spool)]
        argv += ["--ready-file", str(ready)]
        argv += ["--stats-file", str(spool / STATS), "--seed", str(seed), "--latency", str(latency)]
        argv += [word for rule in faults for word in ("--fault", rule)]
        argv += ["--bounce-addresses"] if bounce_addresses else []
        offset = log_file.stat().st_size if log_file.exists() else 0
        found = announced.start(EmbeddedSink, ready, argv, port, log_file)
        if found is not None:
            return found
    talk = launch.talk_since(log_file, offset).strip().splitlines()
    raise Misconfigured(
        f"The mail sink on {spool} did not come up: {talk[-1] if talk else 'no reason'}. "
        f"See {log_file}, or set DRIPFLEET_SMTP_URL to a server of your own."
    )
