"""`status --watch` in a terminal: it fits, follows, outlives Postgres, and leaves when told."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sqlalchemy import text

from models.session import Database
from tests.live import seeds
from tests.live.fleet import eventually

COMMAND = [sys.executable, "-P", "-m", "workers", "status", "--watch"]


class Wire:
    """A way to Postgres that can be cut and mended; the server itself is everybody's."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._whole = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole = False
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._whole = True

    def close(self) -> None:
        self._listener.close()
        self.cut()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._whole:
                near.close()
                continue
            far = socket.create_connection(self._to)
            self._open += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(a, b), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while octets := source.recv(65536):
            target.sendall(octets)
        target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def environment(database_url: str, valkey_url: str, tmp_path: Path) -> dict[str, str]:
    # A test run over several processes says how wide it is; this terminal says so itself.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DRIPFLEET_") and name not in ("COLUMNS", "LINES")
    }
    return {
        **inherited,
        "TERM": "xterm-256color",
        "DRIPFLEET_DATABASE_URL": database_url,
        "DRIPFLEET_REDIS_URL": valkey_url,
        "DRIPFLEET_HOME": str(tmp_path / "var"),
    }


def paused(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE stream SET paused_at = clock_timestamp(), pause_reason = '535 at auth'"
                " WHERE key = 'marketing'"
            )
        )
        connection.execute(text("INSERT INTO canary VALUES ('send', 'one', clock_timestamp())"))


class Tmux:
    """A terminal of a test, on a server of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._name = f"dripfleet-{uuid4().hex[:8]}"
        self._environment = environment

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._name, "-f", "/dev/null", *arguments],
            env=self._environment, capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
        return done.stdout

    def start(self, width: int, height: int) -> None:
        size = ("-x", str(width), "-y", str(height))
        self.run("new-session", "-d", *size, *COMMAND)

    def screen(self) -> list[str]:
        return self.run("capture-pane", "-p").split("\n")[:-1]

    def shows(self, *words: str) -> Callable[[], bool]:
        def look() -> bool:
            screen = "\n".join(self.screen())
            return all(word in screen for word in words)

        return look

    def ended(self) -> bool:
        # The server ends with its last window, and the window with the command.
        done = subprocess.run(
            ["tmux", "-L", self._name, "list-sessions"],
            env=self._environment, capture_output=True, check=False, timeout=20,
        )  # fmt: skip
        return done.returncode != 0


@pytest.fixture
def tmux(environment: dict[str, str]) -> Iterator[Tmux]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux, the terminal of this test, is not installed")
    terminal = Tmux(environment)
    yield terminal
    if not terminal.ended():
        terminal.run("kill-server")


def test_it_fits_80_by_24_grows_with_the_terminal_and_leaves_on_q(
    tmux: Tmux, database: Database
) -> None:
    paused(database)
    seeds.sequence(database, seeds.TWO_MAILS)
    tmux.start(80, 24)
    eventually(tmux.shows("stream marketing is paused: 535 at auth", "two-mails", "10 s: 0/s"))
    screen = tmux.screen()
    assert len(screen) == 24 and screen[0].startswith("dripfleet")
    assert "→ dripfleet stream resume marketing" in "\n".join(screen)
    assert screen[-1].startswith("q or Ctrl-C leaves")
    tmux.run("resize-window", "-x", "120", "-y", "40")
    eventually(lambda: tmux.screen()[-1].startswith("q or Ctrl-C leaves"))
    assert len(tmux.screen()) == 40
    tmux.run("resize-window", "-x", "60", "-y", "14")
    eventually(lambda: tmux.screen()[13].startswith("q or Ctrl-C leaves"))
    tmux.run("send-keys", "q")
    eventually(tmux.ended, 5)


def test_it_says_that_postgres_is_gone_and_comes_back_by_itself(
    tmux: Tmux, environment: dict[str, str], database_url: str, database: Database
) -> None:
    paused(database)
    parts = urlsplit(database_url)
    wire = Wire(parts.hostname or "127.0.0.1", parts.port or 5432)
    try:
        credentials = parts.netloc.rpartition("@")[0]
        near = f"{credentials}@127.0.0.1:{wire.port}" if credentials else f"127.0.0.1:{wire.port}"
        environment["DRIPFLEET_DATABASE_URL"] = parts._replace(netloc=near).geturl()
        tmux.start(100, 30)
        eventually(tmux.shows("dripfleet  ", "transactional"))
        wire.cut()
        # What was seen last stays below the word on why it is old.
        eventually(tmux.shows("Postgres does not answer", "as of ", "transactional"))
        wire.mend()
        eventually(lambda: tmux.screen()[0].startswith("dripfleet"))
    finally:
        wire.close()


def until(terminal: int, pattern: bytes, seconds: float = 20) -> bytes:
    """Read from a terminal until something stands on it."""
    read, deadline = b"", time.monotonic() + seconds
    while not re.search(pattern, read):
        assert time.monotonic() < deadline, read[-2000:]
        if select.select([terminal], [], [], 0.1)[0]:
            read += os.read(terminal, 65536)
    return read


@pytest.mark.parametrize("leave", [b"q", b"\x03", signal.SIGTERM])
def test_it_gives_the_terminal_back_as_it_was(
    environment: dict[str, str], database: Database, leave: bytes | signal.Signals
) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        COMMAND, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        # Ctrl-C becomes a signal only in the terminal that controls the process.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    try:
        drawn = until(master, rb"leaves")
        assert b"\x1b[?1049h" in drawn and b"\x1b[2J" not in drawn.partition(b"leaves")[2]
        began = time.monotonic()
        if isinstance(leave, bytes):
            os.write(master, leave)
        else:
            process.send_signal(leave)
        left = until(master, rb"\x1b\[\?1049l", 5)
        assert b"\x1b[?25h" in left or b"\x1b[?25h" in until(master, rb"\x1b\[\?25h", 5)
        code = process.wait(10)
        assert time.monotonic() - began < 5
        assert code == (128 + leave if isinstance(leave, signal.Signals) else 0)
        assert termios.tcgetattr(slave) == before
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)
        os.close(slave)
