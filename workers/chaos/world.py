"""Servers, sink, proxy and the fleet of one run, and what can be done to them.

The harness owns the servers, so that it may kill and restart them; the fleet finds them by its
environment and reaches Postgres through a proxy that can be cut. The sink stands in this process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlsplit

import psutil
from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from tasks.moves.settings import DeliverySettings
from workers import broker
from workers.chaos.points import Points
from workers.chaos.proxy import Proxy
from workers.embedded.faults import Faults
from workers.embedded.home import Home
from workers.embedded.sink import Sink, in_thread
from workers.embedded.stack import SECRETS

if TYPE_CHECKING:
    import redis

T = TypeVar("T")

SECOND = ("worker", "send", "--name", "send@second")
JOURNAL_DISK = 4 << 20  # octets of the small disk on which journals lie, where one can be had
LIVE = text("""
SELECT (SELECT count(*) FROM message WHERE run_at IS NOT NULL OR watch_at IS NOT NULL) AS messages,
    (SELECT count(*) FROM enrollment WHERE active) AS enrollments,
    (SELECT count(*) FROM event_news) + (SELECT count(*) FROM entry_request) AS asking
""")


class World:
    """One fleet under test; see the module's text.

    Args:
        root: its folder, made anew.
        shorter: by how much all durations of delivery are divided.
        smtp: what the sink does wrong, as `Faults.parse` reads it.
        seed: of the sink's draws.
        latency: seconds from a dot to its reply.
        guard_off: a name of `guards.OFF`, for the negative control.
        edge: whether readers reach this fleet, by an edge of its own.
        say: told what the supervisor says.
    """

    def __init__(
        self,
        root: Path,
        *,
        shorter: float = 60.0,
        smtp: Sequence[str] = (),
        seed: int = 0,
        latency: float = 0.0,
        guard_off: str | None = None,
        edge: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.root = root
        self.delivery = DeliverySettings().shortened(shorter)
        self.shorter = shorter
        self.faults = Faults.parse(smtp, seed=seed)
        self.small_disk = False
        self._latency = latency
        self._hooks = ["--guard-off", guard_off] if guard_off else []
        self.say = say
        self._exits = ExitStack()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._second: subprocess.Popen[bytes] | None = None
        self._edge: subprocess.Popen[bytes] | None = None
        self.edge_port = free_port() if edge else None
        self._changing = threading.RLock()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self.home = exits.enter_context(Home(self.root))
            self.points = Points(self.root / "points")
            self.small_disk = exits.enter_context(_small_disk(self.home.journals))
            self.postgres = self.home.postgres()
            self.valkey = self.home.valkey()
            self.database = Database(self.postgres.url, name="dripfleet-chaos", size=8)
            exits.callback(self.database.close)
            migrate(self.database)
            self.sink: Sink = exits.enter_context(
                in_thread(self.home.mail, faults=self.faults, latency=self._latency)
            )
            self.proxy = exits.enter_context(Proxy(urlsplit(self.postgres.url).port or 0))
            self._log: IO[bytes] = exits.enter_context((self.home.logs / "fleet.log").open("ab"))
            exits.callback(self.stop)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    # The fleet.

    def environment(self) -> dict[str, str]:
        """What the fleet's processes are given; never by argv."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
        parts = urlsplit(self.postgres.url)
        at = parts.netloc.rpartition("@")[0] + f"@127.0.0.1:{self.proxy.port}"
        own = {
            "DRIPFLEET_HOME": str(self.home.root),
            "DRIPFLEET_JOURNAL_DIR": str(self.home.journals),
            "DRIPFLEET_DATABASE_URL": parts._replace(netloc=at).geturl(),
            "DRIPFLEET_REDIS_URL": self.valkey.url,
            "DRIPFLEET_SMTP_URL": self.sink.url,
            "DRIPFLEET_CONNECTIONS": "16",
            "DRIPFLEET_DRAIN_WAIT": f"{self.delivery.reply_wait * 1.05:g}",
            "DRIPFLEET_REAP_EVERY": "1",
            "DRIPFLEET_RESOLVE_EVERY": "1",
            "DRIPFLEET_RESTART_MAX": "2",
            **self.delivery.environment(),
        }
        if self.edge_port is not None:
            own["DRIPFLEET_EDGE_PORT"] = str(self.edge_port)
            own["DRIPFLEET_EDGE_URL"] = self.edge_url
        own |= {f"DRIPFLEET_SECRET_{name.upper()}": self.home.secret(name) for name in SECRETS}
        return kept | own

    def start(self) -> None:
        """Start the supervisor, whose fleet follows it, and a second send worker beside that.

        With one alone most faults of a run would find that nothing is being sent.
        """
        with self._changing:
            self._supervisor = self.spawn("fleet")
            self._second = self.spawn(*SECOND)
            if self.edge_port is not None:
                self._edge = self.spawn("api")

    @property
    def edge_url(self) -> str:
        """Where readers reach the edge."""
        return f"http://127.0.0.1:{self.edge_port}"

    def kill_edge(self) -> bool:
        """Kill the edge with -9; whether there was one. `tend` starts another."""
        with self._changing:
            running = self._edge is not None and self._edge.poll() is None
            return (
                running and self._edge is not None and send_signal(self._edge.pid, signal.SIGKILL)
            )

    def spawn(
        self, *command: str, hooks: Sequence[str] = (), more: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A process of this fleet beside those of the supervisor; the caller's to end."""
        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "workers.chaos.process", *self._hooks, *hooks),
                *(str(self.points.folder), *command),
            ],
            env=self.environment() | dict(more or {}),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Stop the fleet in order, what is frozen woken first; what does not end is killed."""
        with self._changing:
            standing = (self._supervisor, self._second, self._edge)
            ours = [each for each in standing if each is not None]
            self._supervisor = self._second = self._edge = None
        family = [process for each in ours for process in _family(each.pid)]
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.resume()
        for each in ours:
            each.terminate()
        for each in ours:
            try:
                each.wait(self.delivery.reply_wait + 60)
            except subprocess.TimeoutExpired:
                self.say("the fleet did not stop when asked; it is killed")
                each.kill()
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        for each in ours:
            each.wait()

    def tend(self) -> None:
        """Start again what of the supervisor, the second send worker and the edge is gone. Call it often."""
        with self._changing:
            if self._supervisor is not None and self._supervisor.poll() is not None:
                self.say(
                    f"the supervisor ended ({self._supervisor.returncode}); another one starts"
                )
                self._supervisor = self.spawn("fleet")
            if self._second is not None and self._second.poll() is not None:
                self._second = self.spawn(*SECOND)
            if self._edge is not None and self._edge.poll() is not None:
                self._edge = self.spawn("api")

    @property
    def supervisor(self) -> int:
        """Its process id."""
        assert self._supervisor is not None, "start the fleet first"
        return self._supervisor.pid

    def processes(self) -> dict[str, int]:
        """What runs under the supervisor now: name → process id (beat, and a worker a pool)."""
        found = {}
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.supervisor).children():
                with contextlib.suppress(psutil.Error):
                    words = child.cmdline()
                    if "beat" in words:
                        found["beat"] = child.pid
                    elif "worker" in words:
                        found[words[words.index("worker") + 1]] = child.pid
        return found

    def pid(self, name: str, seconds: float = 20.0) -> int | None:
        """The process of that name, waited for while it starts; None: it did not."""
        return await_value(lambda: self.processes().get(name), seconds)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> bool:
        """Send a signal to a process of the fleet; whether there was one."""
        pid = self.pid(name)
        return pid is not None and send_signal(pid, number)

    def journals(self) -> list[Path]:
        """The journal files that lie there now."""
        return sorted(self.home.journals.glob("*.journal"))

    # The servers.

    def redis(self) -> redis.Redis:
        """A client of the queues; the caller closes it."""
        return broker.client(self.valkey.url)

    def restart_postgres(self) -> bool:
        """Stop Postgres at once, as a crash would, and start it on the same port."""
        with self._changing:
            before = self.postgres.pid
            self.postgres.stop(immediate=True)
            self.postgres = self.home.postgres()
            return self.postgres.pid != before

    def restart_valkey_empty(self) -> bool:
        """Kill Valkey with -9, lose what it had written, and start it on the same port."""
        with self._changing:
            before = self.valkey.pid
            data = self.home.root / "valkey" / "data"
            os.kill(before, signal.SIGKILL)
            await_value(lambda: not self.valkey.alive() or None, 10)
            shutil.rmtree(data / "appendonlydir", ignore_errors=True)
            self.valkey = self.home.valkey()
            return self.valkey.pid != before

    def live(self) -> tuple[int, int]:
        """(messages that are not terminal, enrollments that are not ended or are asked for)."""
        with self.database.transaction() as connection:
            row = connection.execute(LIVE).one()
            return row.messages, row.enrollments + row.asking


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def await_value(look: Callable[[], T | None], seconds: float) -> T | None:
    """Ask until there is an answer; None: not in time."""
    deadline = time.monotonic() + seconds
    while True:
        if (value := look()) is not None or time.monotonic() >= deadline:
            return value
        time.sleep(0.05)


def send_signal(pid: int, number: signal.Signals) -> bool:
    """Whether there was a process to take it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """A small disk of its own under a folder, if this process may mount one; whether it did."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        yield False
        return
    size = f"size={JOURNAL_DISK},mode=0700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "dripfleet-chaos", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
