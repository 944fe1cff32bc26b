"""One process under the supervisor: started, watched, started again, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from workers.parent import PARENT_FD

PROGRAM = ("-m", "workers")
FIRST_PAUSE = 0.5  # seconds before the first restart; doubles, up to `longest_pause`
LOG_KEPT = 20_000_000  # octets; a longer log is put aside when its process starts
TOLD = ("warning", "error", "critical")


class Child:
    """A process of the fleet.

    Args:
        name: what it is called, and its log.
        arguments: of the program; never a secret.
        environment: asked at each start, since a server that came back may answer elsewhere.
        log_file: its stderr and stdout, appended to.
        say: told of deaths and restarts, and what the child itself warns of.
        program: what the interpreter is told to run, before the arguments.
        longest_pause: seconds between a death and the next start; after a life of twice as long a
            death is taken for the first one again.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environment: Callable[[], Mapping[str, str]],
        log_file: Path,
        say: Callable[[str], None],
        program: Sequence[str] = PROGRAM,
        longest_pause: float = 30.0,
    ) -> None:
        self.name = name
        self._arguments = list(arguments)
        self._environment = environment
        self._log_file = log_file
        self._say = say
        self._program = tuple(program)
        self._longest_pause = longest_pause
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._started = 0.0
        self._restart_at: float | None = None
        self._pause = FIRST_PAUSE
        self._asked = False
        self._read_to = 0
        self._rest = b""
        self._last_line = ""

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, in a session of its own, with the far end of a pipe that only we hold."""
        self._restart_at = None
        self._asked = False
        with contextlib.suppress(FileNotFoundError):
            if self._log_file.stat().st_size > LOG_KEPT:
                self._log_file.replace(self._log_file.with_suffix(".log.1"))
        theirs, self._pipe = os.pipe()
        try:
            # 0600: a log names no address, and is still nobody else's business.
            log = os.open(self._log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                self._read_to = os.fstat(log).st_size
                self._rest = b""
                self._process = subprocess.Popen(
                    # -P: what lies in the working directory is not imported.
                    [sys.executable, "-P", *self._program, *self._arguments],
                    env={**self._environment(), PARENT_FD: str(theirs)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(theirs,),
                )
            finally:
                os.close(log)
        finally:
            os.close(theirs)
        self._started = time.monotonic()

    def tend(self) -> None:
        """Pass on its warnings; start it again if it died and its pause is over."""
        self._listen()
        if self._process is not None and self._dead():
            code = self._bury()
            self._listen()
            if time.monotonic() - self._started >= 2 * self._longest_pause:
                self._pause = FIRST_PAUSE
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            why = f" ({self._last_line})" if self._last_line and code > 0 else ""
            self._say(f"{self.name} ended with {how}{why}; starting it again in {self._pause:g} s")
            self._restart_at = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, self._longest_pause)
        if self._restart_at is not None and time.monotonic() >= self._restart_at:
            self.start()

    def ask_to_stop(self) -> None:
        """SIGTERM; it is not started again."""
        self._asked = True
        self._restart_at = None
        if self._process is not None:
            # Not by `Popen`, which reaps one that has just died, and its id with it.
            os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to it and its own children."""
        if self._process is not None:
            _kill_session(self._process.pid)

    def ended(self) -> bool:
        """Whether it runs no more; its warnings are passed on."""
        self._listen()
        if self._process is not None and self._dead():
            code = self._bury()
            self._listen()
            if code != 0:
                self._say(f"{self.name} ended with {code} when it was asked to stop")
        return self._process is None

    def _dead(self) -> bool:
        """Dead, but not yet reaped: its id is still nobody else's."""
        assert self._process is not None
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None

    def _bury(self) -> int:
        """Take what it left behind with it (a prefork worker's children), and reap it."""
        assert self._process is not None
        _kill_session(self._process.pid)
        code = self._process.wait()
        os.close(self._pipe)
        self._process, self._pipe = None, -1
        return code

    def _listen(self) -> None:
        """Read what was appended to its log since; say what is worth it."""
        try:
            with self._log_file.open("rb") as log:
                log.seek(self._read_to)
                fresh = log.read()
        except FileNotFoundError:
            return
        self._read_to += len(fresh)
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        for line in lines:
            self._pass_on(line.decode("utf-8", "replace").strip())

    def _pass_on(self, line: str) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            # The last words of a process that logs no more, such as `dripfleet: …`.
            self._last_line = line[:300] or self._last_line
            return
        if record.get("level") in TOLD:
            shown = {k: v for k, v in record.items() if k not in ("at", "level", "event", "pool")}
            shown.pop("exception", None)
            rest = " ".join(f"{k}={v}" for k, v in shown.items())
            self._say(f"{self.name}: {record['level']}: {record.get('event')} {rest}".rstrip())


def _kill_session(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
