"""A child of the supervisor ends with it, even if the supervisor is killed with -9."""

from __future__ import annotations

import os
import signal
import threading
import time

import structlog

log = structlog.get_logger()

PARENT_FD = "DRIPFLEET_PARENT_FD"


def watch_parent(patience: float) -> None:
    """End with the parent that started this process, if one did.

    The parent holds the other end of a pipe; its end, even by kill -9, is our end of file. Then
    this process stops as by SIGTERM, and by SIGKILL if that takes longer than `patience` seconds.
    """
    given = os.environ.pop(PARENT_FD, None)
    if given is None:
        return
    fd = int(given)
    os.set_inheritable(fd, False)

    def wait() -> None:
        while os.read(fd, 64):
            pass
        log.warning("parent_gone", next="this process stops too")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="parent", daemon=True).start()
