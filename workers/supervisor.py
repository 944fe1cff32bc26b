"""The whole fleet under one foreground parent: beat, a worker a pool, Flower.

Each child runs in a session of its own, so Ctrl-C reaches the parent alone, which stops them in
order. A child that dies is started again, later each time it dies young. If the parent itself is
killed, a pipe that only it held ends, and each child stops by itself (a death signal would hang on
the parent's thread, and be lost over setuid).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from types import FrameType

from sqlalchemy.exc import OperationalError

from models.session import Database
from tasks import names
from tasks.canary import store as canaries
from tasks.errors import Transient
from workers.child import PROGRAM, Child
from workers.embedded.stack import Stack
from workers.settings import FleetSettings, panel

POLL_SECONDS = 0.1
MEND_SECONDS = 1.0
HURRY_PATIENCE = 2.0
PATIENCE = 40.0  # a delivery task waits 20 s for its rows; everything else is shorter


class Fleet:
    """The processes of a fleet on the servers of a stack.

    Args:
        stack: entered already, and migrated.
        pools: which workers.
        beat, flower: whether these run too.
        say: told what the operator should know: deaths, restarts, warnings of children.
        program: what the interpreter is told to run, before a process's own arguments.
    """

    def __init__(
        self,
        stack: Stack,
        *,
        pools: Sequence[str] = names.POOLS,
        beat: bool = True,
        flower: bool = True,
        say: Callable[[str], None] = lambda text: None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.stack = stack
        self._program = tuple(program)
        self.pools = tuple(pools)
        self.stopping = threading.Event()
        self._hurried = threading.Event()
        self._say = say
        self._settings = panel(FleetSettings)[FleetSettings]
        commands = {pool: ["worker", pool] for pool in self.pools}
        if beat:
            commands["beat"] = ["beat"]
        if flower:
            commands["flower"] = ["flower"]
        self._children = {name: self._child(name, argv) for name, argv in commands.items()}
        self._database: Database | None = None
        self._since: dt.datetime | None = None
        self._next_mend = 0.0

    def start(self) -> None:
        """Start every process; returns at once, see `wait_ready`."""
        self._database = Database(self.stack.database_url, name="dripfleet-supervisor", size=1)
        with self._database.transaction() as connection:
            self._since = canaries.now(connection)
        (self.stack.home.run / "flower.url").unlink(missing_ok=True)
        for child in self._children.values():
            child.start()

    def ready(self) -> set[str]:
        """The pools that have answered their canary, through their queue, since `start`."""
        assert self._database is not None and self._since is not None, "start the fleet first"
        with self._database.transaction() as connection:
            latest = canaries.latest(connection)
        return {pool for pool in self.pools if pool in latest and latest[pool] >= self._since}

    def wait_ready(self, timeout: float = 120.0) -> float:
        """Wait until every pool answers; seconds that it took.

        Raises:
            Transient: some did not in time; the message names them and their logs.
        """
        began = time.monotonic()
        while not self.stopping.is_set():
            self.poll()
            try:
                silent = set(self.pools) - self.ready()
            except OperationalError:  # `poll` brings an embedded Postgres back
                silent = set(self.pools)
            if not silent:
                break
            if time.monotonic() - began > timeout:
                raise Transient(
                    f"No answer within {timeout:g} s from {', '.join(sorted(silent))};"
                    f" see their logs in {self.stack.home.shown(self.stack.home.logs)}."
                )
            self.stopping.wait(POLL_SECONDS)
        return time.monotonic() - began

    def pids(self) -> dict[str, int]:
        """Process ids of what runs now, by name."""
        return {name: child.pid for name, child in self._children.items() if child.pid is not None}

    def flower_url(self) -> str | None:
        """Where Flower serves, once it does."""
        with contextlib.suppress(OSError):
            return (self.stack.home.run / "flower.url").read_text(encoding="utf-8").strip() or None
        return None

    def poll(self) -> None:
        """Pass on what children warn of, and start again what died. Call it a few times a second."""
        for child in self._children.values():
            child.tend()
        self._mend()

    def stop(self) -> None:
        """Stop in order: nothing new, then nothing planned, then what is in hand, then the rest."""
        self.stopping.set()
        rest = [
            name for name in self._children if name not in ("beat", "sequence", "send", "flower")
        ]
        for group, patience in (
            (["beat"], PATIENCE),
            (["sequence"], PATIENCE),
            (["send"], self._settings.drain_wait + PATIENCE),
            (rest, PATIENCE),
            (["flower"], PATIENCE),
        ):
            self._stop_group(group, patience)
        if self._database is not None:
            self._database.close()
            self._database = None

    def hurry(self) -> None:
        """Make a running `stop` kill what does not end in two seconds (safe in a signal handler).

        Nothing is lost by it: leases and the journal settle what was in hand.
        """
        self._hurried.set()

    def run(self, seconds: float | None = None) -> None:
        """Tend the fleet until `stopping` is set, or for so many seconds."""
        until = None if seconds is None else time.monotonic() + seconds
        while not self.stopping.wait(POLL_SECONDS):
            self.poll()
            if until is not None and time.monotonic() >= until:
                return

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Within: the first SIGINT or SIGTERM sets `stopping`, the second hurries."""

        def on_signal(signum: int, frame: FrameType | None) -> None:
            if self.stopping.is_set():
                self.hurry()
            self.stopping.set()

        before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _mend(self) -> None:
        if time.monotonic() >= self._next_mend:
            self._next_mend = time.monotonic() + MEND_SECONDS
            self.stack.mend()

    def _child(self, name: str, arguments: list[str]) -> Child:
        return Child(
            name,
            arguments,
            environment=self.stack.environment,
            log_file=self.stack.home.logs / f"{name}.log",
            say=self._say,
            program=self._program,
            longest_pause=self._settings.restart_max,
        )

    def _stop_group(self, group: Collection[str], patience: float) -> None:
        children = [self._children[name] for name in group if name in self._children]
        for child in children:
            child.ask_to_stop()
        deadline, hurried_at = time.monotonic() + patience, 0.0
        while running := [child for child in children if not child.ended()]:
            # What is being stopped has replies to write down: it needs its servers until the end.
            self._mend()
            if self._hurried.is_set():
                hurried_at = hurried_at or time.monotonic()
                deadline = min(deadline, hurried_at + HURRY_PATIENCE)
            if time.monotonic() >= deadline:
                for child in running:
                    child.kill()
            time.sleep(0.02)
