"""The whole fleet under one foreground parent: beat, a worker or more a pool, Flower.

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
from tasks.errors import Misconfigured, Transient
from workers.autoscale import AutoscaleSettings, Bounds
from workers.child import PROGRAM, Child
from workers.crew import Crew
from workers.embedded.stack import Stack
from workers.scaling import Autoscaler
from workers.settings import FleetSettings, panel

POLL_SECONDS = 0.1
MEND_SECONDS = 1.0
HURRY_PATIENCE = 2.0
COMMAND = {"edge": "api"}  # where it is called otherwise than its process
PATIENCE = 40.0  # a delivery task waits 20 s for its rows; everything else is shorter


class Fleet:
    """The processes of a fleet on the servers of a stack.

    Args:
        stack: entered already, and migrated.
        pools: which workers.
        regions: of each a send worker as well, beside the one that answers no region (or, with
            DRIPFLEET_REGION, its own).
        scale: queues whose workers grow and shrink by how late they are; the others have one.
        beat, flower, edge: whether these run too; for the edge, `Stack.serve_edge` comes before.
        say: told what the operator should know: deaths, restarts, warnings of children.
        program: what the interpreter is told to run, before a process's own arguments.
    """

    def __init__(
        self,
        stack: Stack,
        *,
        pools: Sequence[str] = names.POOLS,
        regions: Sequence[str] = (),
        scale: Sequence[Bounds] = (),
        beat: bool = True,
        flower: bool = True,
        edge: bool = False,
        say: Callable[[str], None] = lambda text: None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.stack = stack
        self._program = tuple(program)
        own = stack.environment().get("DRIPFLEET_REGION")
        places = [(pool, own if pool in names.REGIONAL else None) for pool in pools]
        places += [("send", region) for region in regions]
        self.queues = tuple(dict.fromkeys(names.queue_of(*place) for place in places))
        self.stopping = threading.Event()
        self._hurried = threading.Event()
        self._say = say
        self._settings = panel(FleetSettings)[FleetSettings]
        self._alone = {
            name: self._child(name, [COMMAND.get(name, name)])
            for name, wanted in (("beat", beat), ("flower", flower), ("edge", edge))
            if wanted
        }
        patience = self._settings.drain_wait + PATIENCE
        self._crews = {queue: Crew(queue, self._child, patience=patience) for queue in self.queues}
        self._scale = _checked(scale, self.queues)
        self._autoscaler: Autoscaler | None = None
        self._database: Database | None = None
        self._since: dt.datetime | None = None
        self._next_mend = 0.0

    def start(self) -> None:
        """Start every process; returns at once, see `wait_ready`."""
        self._database = Database(self.stack.database_url, name="dripfleet-supervisor", size=1)
        with self._database.transaction() as connection:
            self._since = canaries.now(connection)
        for name in self._alone:
            (self.stack.home.run / f"{name}.url").unlink(missing_ok=True)
        least = {each.queue: each.min_replicas for each in self._scale}
        for queue, crew in self._crews.items():
            crew.resize(least.get(queue, 1))
        for child in self._alone.values():
            child.start()
        if self._scale:
            self._autoscaler = Autoscaler(
                self._scale,
                self._crews,
                lambda: Database(self.stack.database_url, name="dripfleet-autoscale", size=1),
                panel(AutoscaleSettings)[AutoscaleSettings],
                self._say,
            )
            self._autoscaler.start()

    def ready(self) -> set[str]:
        """The queues whose canary was answered, through them, since `start`."""
        assert self._database is not None and self._since is not None, "start the fleet first"
        with self._database.transaction() as connection:
            latest = canaries.latest(connection)
        return {queue for queue in self.queues if queue in latest and latest[queue] >= self._since}

    def wait_ready(self, timeout: float = 120.0) -> float:
        """Wait until every pool answers; seconds that it took.

        Raises:
            Transient: some did not in time; the message names them and their logs.
        """
        began = time.monotonic()
        while not self.stopping.is_set():
            self.poll()
            try:
                silent = set(self.queues) - self.ready()
            except OperationalError:  # `poll` brings an embedded Postgres back
                silent = set(self.queues)
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
        return {child.name: child.pid for child in self._children() if child.pid is not None}

    def flower_url(self) -> str | None:
        """Where Flower serves, once it does."""
        return self._url("flower")

    def edge_url(self) -> str | None:
        """Where the edge serves, once it does."""
        return self._url("edge")

    def _url(self, name: str) -> str | None:
        with contextlib.suppress(OSError):
            return (self.stack.home.run / f"{name}.url").read_text(encoding="utf-8").strip() or None
        return None

    def poll(self) -> None:
        """Pass on what children warn of, and start again what died. Call it a few times a second."""
        for child in self._alone.values():
            child.tend()
        for crew in self._crews.values():
            crew.tend()
        if self._autoscaler is not None:
            self._autoscaler.step()
        self._mend()

    def stop(self) -> None:
        """Stop in order: nothing new, then nothing planned, then what is in hand, then the rest."""
        self.stopping.set()
        if self._autoscaler is not None:
            self._autoscaler.close()
            self._autoscaler = None
        drain = self._settings.drain_wait + PATIENCE
        for names_, patience in (
            (("beat",), PATIENCE),
            (("sequence",), PATIENCE),
            (("send",), drain),
            (tuple(pool for pool in names.POOLS if pool not in ("sequence", "send")), PATIENCE),
            (("flower", "edge"), PATIENCE),
        ):
            self._stop_group([*self._of(names_)], patience)
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

    def _children(self) -> Iterator[Child]:
        for crew in self._crews.values():
            yield from crew.children()
        yield from self._alone.values()

    def _of(self, kinds: Collection[str]) -> Iterator[Child]:
        """The children of these pools, and beat or Flower by their names."""
        for queue, crew in self._crews.items():
            if names.place_of(queue)[0] in kinds:
                yield from crew.children()
        yield from (child for name, child in self._alone.items() if name in kinds)

    def _stop_group(self, children: Collection[Child], patience: float) -> None:
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


def _checked(scale: Sequence[Bounds], queues: Sequence[str]) -> tuple[Bounds, ...]:
    """These bounds, one a queue that runs here.

    Raises:
        Misconfigured: a queue that does not run here, or has two ranges.
    """
    for each in scale:
        if each.queue not in queues:
            raise Misconfigured(
                f"--autoscale {each.queue}: no worker of it runs here; expected one of"
                f" {', '.join(queues)} (a region needs --region)"
            )
    if len({each.queue for each in scale}) < len(scale):
        raise Misconfigured("--autoscale names a queue twice: expected one range each; remove one")
    return tuple(scale)
