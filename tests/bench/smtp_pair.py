"""smtp-source and smtp-sink (Postfix): what the same mails cost in C, without a record of any."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.errors import Permanent, Transient

SOURCE, SINK = "smtp-source", "smtp-sink"
MISSING = (
    f"{SOURCE} and {SINK} are not on this machine, so the fleet stands without its measure;"
    " install Debian's package postfix (they are in /usr/sbin)"
)
READY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Where the two programs are."""

    source: str
    sink: str

    @classmethod
    def find(cls) -> Pair | None:
        """Look on PATH and where Debian puts them; None: one is missing."""
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/postfix/sbin"])
        source, sink = shutil.which(SOURCE, path=path), shutil.which(SINK, path=path)
        return cls(source, sink) if source and sink else None

    @contextlib.contextmanager
    def listening(self) -> Iterator[tuple[int, int]]:
        """Run smtp-sink on a free port of loopback for the length of the block: (port, pid).

        Raises:
            Transient: it does not come up.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        # It does not run as root, and says so.
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        process = subprocess.Popen([self.sink, *user, "-m", "2000", f"127.0.0.1:{port}", "1024"])
        try:
            _wait_for(port, process)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait()

    def send(self, port: int, *, mails: int, connections: int, payload: int) -> tuple[float, float]:
        """Send with smtp-source, each connection kept for many mails.

        Args:
            port: of the server, on loopback.
            mails: how many.
            connections: side by side.
            payload: octets of each below its headers.

        Returns:
            Seconds that went by, and seconds of processor that smtp-source used.

        Raises:
            Permanent: it ended with an error, so not every mail was taken.
        """
        began = time.monotonic()
        process = subprocess.Popen(
            [
                *(self.source, "-d", "-s", str(connections), "-m", str(mails)),
                *("-l", str(payload), "-f", "hello@example.com", "-t", "customer@example.com"),
                f"127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise Permanent(f"{SOURCE} ended with {process.returncode}; its words stand above")
        return seconds, usage.ru_utime + usage.ru_stime


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as s:
            if s.recv(64).startswith(b"220"):
                return
        time.sleep(0.02)
    raise Transient(f"{SINK} did not come up on port {port}; run the benchmark again")
