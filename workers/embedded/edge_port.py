"""Where the edge of an embedded fleet listens: the same port each time, since mails name it."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Final

from tasks.errors import Misconfigured

FIRST: Final = 8650
PORTS: Final = 50
HOST: Final = "127.0.0.1"


def edge_port(run: Path) -> int:
    """The port of this home's edge: the one it had, else the first that is free.

    Args:
        run: the home's folder of that name.

    Raises:
        Misconfigured: none of fifty is free.
    """
    kept = run / "edge.port"
    with contextlib.suppress(OSError, ValueError):
        port = int(kept.read_text(encoding="ascii"))
        if _free(port):
            return port
    for port in range(FIRST, FIRST + PORTS):
        if _free(port):
            kept.write_text(f"{port}\n", encoding="ascii")
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
