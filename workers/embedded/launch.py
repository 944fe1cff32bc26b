"""How a server of ours is launched, recognised again, and stopped.

Every server runs in a session of its own, so a Ctrl-C at the terminal reaches the supervisor alone
and the supervisor stops the servers in order. A supervisor that is itself killed with -9 leaves its
servers running (a death signal does not survive ``unshare``); the next command finds them by their
folder, attaches, and stops them when it is the last one to use them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import psutil

from tasks.errors import Misconfigured

POLL_SECONDS = 0.01
STARTS = 5  # a free port can be taken between our asking and the server's bind


@dataclass
class Service:
    """A running server: where it answers and which process it is.

    Attributes:
        url: where clients connect; holds the password, therefore not in ``repr``.
        pid: the server's process.
        started: that process's start, seconds since the epoch; a reused pid has another.
        owned: whether this handle started the server; one that attached did not.
    """

    url: str = field(repr=False)
    pid: int
    started: float
    owned: bool
    child: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    kind: ClassVar[str]
    polite: ClassVar[signal.Signals] = signal.SIGTERM
    at_once: ClassVar[signal.Signals] = signal.SIGKILL

    def alive(self) -> bool:
        """Whether that very process still runs; a zombie does not."""
        if self.child is not None:
            return self.child.poll() is None
        return same_process(self.pid, self.started)

    def stop(self, immediate: bool = False) -> None:
        """Stop the server if this handle owns it, and wait until it is gone.

        Args:
            immediate: do not let it finish what it does (no checkpoint, no last fsync).
        """
        if self.owned:
            end(self, immediate=immediate)


def leave(service: Service) -> None:
    """Let a server run on without us, on purpose, so that Python need not warn of a lost child."""
    if service.child is not None and service.child.poll() is None:
        service.child.returncode = 0


def end(service: Service, *, immediate: bool = False, patience: float = 30.0) -> None:
    """Stop a server whoever started it: politely, at once after `patience` seconds, by -9 at last."""
    steps = [(service.polite, patience), (service.at_once, 10.0), (signal.SIGKILL, 10.0)]
    for number, seconds in steps[1:] if immediate else steps:
        if not service.alive():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(service.pid, number)
        deadline = time.monotonic() + seconds
        while service.alive() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def spawn(
    argv: Sequence[str], *, log_file: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, deaf on stdin, its talk appended to `log_file`."""
    with private_append(log_file) as log:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=None if env is None else dict(env),
            start_new_session=True,
        )


def discard(child: subprocess.Popen[bytes]) -> None:
    """Kill and reap a child that did not become a service."""
    if child.poll() is None:
        child.kill()
    child.wait()


def start_time(pid: int) -> float | None:
    """When the process with this pid began, or None if there is none or only its zombie."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.Error:
        return None


def same_process(pid: int, started: float) -> bool:
    """Whether `pid` is still the process that began at `started`, and not a later one."""
    now = start_time(pid)
    # The kernel counts from boot, so a stepped clock moves the figure a little.
    return now is not None and abs(now - started) < 1.0


def exists(pid: int) -> bool:
    """Whether any process, a zombie too, has this pid."""
    return bool(psutil.pid_exists(pid))


def is_child(pid: int, parent: int) -> bool:
    """Whether `parent` is the parent of the living process `pid`."""
    try:
        return bool(psutil.Process(pid).ppid() == parent)
    except psutil.Error:
        return False


def works_in(pid: int, folder: Path) -> bool:
    """Whether `pid` lives and has `folder` as its working directory, as a server has its data."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return Path(process.cwd()).resolve() == folder.resolve()
    except psutil.Error:
        return False


def listens(pid: int, port: int) -> bool:
    """Whether the process `pid` itself holds the listening socket on TCP `port`."""
    try:
        sockets = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(s.status == psutil.CONN_LISTEN and s.laddr.port == port for s in sockets)


def free_port(preferred: int = 0) -> int:
    """A TCP port of 127.0.0.1 nobody listens on just now: the preferred one if it is free."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found: int = probe.getsockname()[1]
                return found
    raise Misconfigured("No TCP port of 127.0.0.1 is free; close some programs and try again.")


def talk_since(log_file: Path, offset: int) -> str:
    """What was appended to a log since `offset` bytes, at most its last 4000 characters."""
    with contextlib.suppress(FileNotFoundError), log_file.open("rb") as log:
        log.seek(offset)
        return log.read().decode("utf-8", "replace")[-4000:]
    return ""


@contextlib.contextmanager
def locked(path: Path, seconds: float = 60.0) -> Iterator[None]:
    """Hold `path` for one process at a time, so that two commands start one server.

    Raises:
        Misconfigured: another process held it for `seconds`.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while not try_lock(fd, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise Misconfigured(
                    f"{path} was held by another command for {seconds:.0f} s; "
                    "end that command, then try again."
                )
            time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(fd)


def try_lock(fd: int, how: int) -> bool:
    """Take a flock (LOCK_EX or LOCK_SH) if that needs no waiting."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a file nobody else can read (0600), whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def private_append(path: Path) -> Iterator[int]:
    """An O_APPEND descriptor (0600) on `path`, for the length of the block."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def kept_password(path: Path) -> str:
    """The password kept in `path` (0600), made at the first call."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8").strip()
    write_private(path, secrets.token_urlsafe(24) + "\n")
    return path.read_text(encoding="utf-8").strip()
