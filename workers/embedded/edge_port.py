"""Where the edge of an embedded fleet listens: the same port each time, since mails name it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tasks.errors import Misconfigured

FIRST: Final = 8650
PORTS: Final = 50
HOST: Final = "127.0.0.1"


def edge_variables(
    port: str, *, sink: bool, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What a process of an embedded fleet is told of its edge; what the operator set stands.

    Args:
        port: of the edge.
        sink: mails go to the sink that ships. Those that go to a relay of the operator's name the edge
            that they say, or none: who reads them is not on this machine.
        environ: what the operator set.
    """
    told = {"DRIPFLEET_EDGE_PORT": port}
    if sink:
        told["DRIPFLEET_EDGE_URL"] = f"http://{HOST}:{port}"
    return {name: value for name, value in told.items() if not environ.get(name, "").strip()}


def kept_port(run: Path) -> str | None:
    """The port that the edge of this home has had; None: it never had one."""
    with contextlib.suppress(OSError, ValueError):
        return str(int((run / "edge.port").read_text(encoding="ascii")))
    return None


def edge_port(run: Path) -> int:
    """The port of this home's edge: the one it had, else the first that is free.

    Args:
        run: the home's folder of that name.

    Raises:
        Misconfigured: none of fifty is free.
    """
    kept = kept_port(run)
    if kept is not None and _free(int(kept)):
        return int(kept)
    for port in range(FIRST, FIRST + PORTS):
        if _free(port):
            (run / "edge.port").write_text(f"{port}\n", encoding="ascii")
            return port
    raise Misconfigured(
        f"the ports {FIRST} to {FIRST + PORTS - 1} are taken: set DRIPFLEET_EDGE_PORT to another, or"
        " leave the edge out (`up --no-edge`)"
    )


def _free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except (OSError, OverflowError):
            return False
    return True
