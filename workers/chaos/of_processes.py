"""Faults of the fleet's own processes: killed, frozen, doubled, with a wrong clock or no journal."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import psutil
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tasks import crashpoint
from workers.chaos.fault import Play, fault
from workers.chaos.world import World, await_value, send_signal

STARTED = 40.0  # seconds within which a process more must have taken work
WORKING = 3.0  # seconds that it then goes on

TAKEN = text("SELECT count(*) FROM canary WHERE worker = ANY(CAST(:workers AS text[]))")
REACHED = 60.0  # seconds within which somebody must stand at an armed point


def _kill(name: str, world: World, rng: random.Random) -> int:
    return int(world.kill(name))


for _name, _what in (
    ("send", "a send worker"),
    ("sequence", "the planner and dispatcher"),
    ("upkeep", "the reaper and resolver"),
    ("beat", "beat"),
):
    fault(f"kill {_name}", f"kill -9 of {_what}")(partial(_kill, _name))


@fault("kill child", "kill -9 of a prefork child")
def kill_prefork_child(world: World, rng: random.Random) -> int:
    """The parent starts another; the pool answers its canary again."""
    parent = world.pid("churn")
    if parent is None:
        return 0

    def child() -> int | None:
        with contextlib.suppress(psutil.Error):
            return next((c.pid for c in psutil.Process(parent).children()), None)
        return None

    pid = await_value(child, STARTED)
    return int(pid is not None and send_signal(pid, signal.SIGKILL))


@fault("kill supervisor", "kill -9 of the parent of them all")
def kill_supervisor(world: World, rng: random.Random) -> int:
    """Its processes end with it; another supervisor starts them anew."""
    return int(send_signal(world.supervisor, signal.SIGKILL))


@fault("term send", "SIGTERM to a send worker in the middle of its conversations")
def term_send(world: World, rng: random.Random) -> int:
    """It drains, and the supervisor starts another."""
    return int(world.kill("send", signal.SIGTERM))


@contextlib.contextmanager
def _frozen(pid: int) -> Iterator[None]:
    try:
        yield
    finally:
        send_signal(pid, signal.SIGCONT)


@fault("freeze send", "SIGSTOP of a send worker for longer than a working lease, then SIGCONT")
def freeze_send(world: World, rng: random.Random) -> int:
    """Its rows are taken from it; it wakes as a zombie, and its word counts for nothing."""
    pid = world.pid("send")
    if pid is None or not send_signal(pid, signal.SIGSTOP):
        return 0
    with _frozen(pid):
        time.sleep(world.delivery.working_lease + world.delivery.reaper_grace + 1)
    return 1


def _freeze_at(point: str, seconds: float, world: World) -> int:
    world.points.arm(point, "stop")
    reached = world.points.await_reached(point, REACHED)
    if reached is None:
        return 0
    with _frozen(reached.pid):
        time.sleep(seconds)
    return 1


@fault("freeze before ARM", "SIGSTOP with bodies written, beyond the working lease and its grace")
def freeze_before_arm(world: World, rng: random.Random) -> int:
    """The rows are somebody else's when it wakes: no dot."""
    held = world.delivery.working_lease + world.delivery.reaper_grace + 1
    return _freeze_at("body.written", held, world)


@fault("freeze after ARM", "SIGSTOP with permission for dots, beyond the armed lease and its grace")
def freeze_after_arm(world: World, rng: random.Random) -> int:
    """In doubt by then; waking, it writes no dot that comes too late, and says so."""
    held = world.delivery.armed_lease + world.delivery.reaper_grace + 1
    return _freeze_at("arm.committed", held, world)


@fault("freeze after the dot", "SIGSTOP with the dot written, beyond the armed lease and its grace")
def freeze_after_dot(world: World, rng: random.Random) -> int:
    """In doubt by then; waking, it records the reply that had been there all along."""
    held = world.delivery.armed_lease + world.delivery.reaper_grace + 1
    return _freeze_at("dot.written", held, world)


@fault("lose machine", "kill -9 of a send worker together with its journal")
def lose_machine(world: World, rng: random.Random) -> int:
    """Nobody knows which dots were written: doubt, after the armed lease."""
    pid = world.pid("send")
    journals = world.journals()
    if pid is None or not journals:
        return 0
    send_signal(pid, signal.SIGSTOP)
    for path in journals:
        path.unlink(missing_ok=True)
    return int(send_signal(pid, signal.SIGKILL))


@contextlib.contextmanager
def _beside(*started: subprocess.Popen[bytes]) -> Iterator[None]:
    """Processes beside those of the supervisor; stopped by SIGTERM, as a deployment would."""
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _at_work(world: World, *workers: str) -> int:
    """Whether workers of these names took work, and went on for a while."""

    def taken() -> bool | None:
        with contextlib.suppress(DBAPIError), world.database.transaction() as connection:
            counted = connection.execute(TAKEN, {"workers": list(workers)}).scalar_one()
            return True if counted == len(workers) else None
        return None

    if not await_value(taken, STARTED):
        return 0
    time.sleep(WORKING)
    return 1


@fault("double beat", "a second beat, and three dispatchers")
def double_beat(world: World, rng: random.Random) -> int:
    """Every tick comes twice, and three planners answer."""
    more = [
        world.spawn("beat"),
        world.spawn("worker", "sequence", "--name", "sequence@second"),
        world.spawn("worker", "sequence", "--name", "sequence@third"),
    ]
    with _beside(*more):
        return _at_work(world, "sequence@second", "sequence@third") * int(more[0].poll() is None)


def _no_time_machine(world: World) -> str | None:
    if find_spec("time_machine") is None:
        return "the package time-machine is not installed (pip install dripfleet[chaos])"
    return None


@fault(
    "skew clocks",
    "a send worker an hour fast and a planner an hour slow beside the others",
    _no_time_machine,
)
def skew_clocks(world: World, rng: random.Random) -> int:
    """Only Postgres's clock is asked, so they work like the others."""
    hour = rng.choice((3600, -3600))
    more = [
        world.spawn("worker", "send", "--name", "send@skewed", hooks=("--skew", str(hour))),
        world.spawn(
            "worker", "sequence", "--name", "sequence@skewed", hooks=("--skew", str(-hour))
        ),
    ]
    with _beside(*more):
        return _at_work(world, "send@skewed", "sequence@skewed")


@fault("two versions", "a planner and a send worker whose doorbells are of another version")
def two_versions(world: World, rng: random.Random) -> int:
    """Each drops what it does not know; the rows are still due."""
    more = [
        world.spawn("worker", "sequence", "--name", "sequence@next", hooks=("--version", "2")),
        world.spawn("worker", "send", "--name", "send@next", hooks=("--version", "2")),
    ]
    with _beside(*more):
        return _at_work(world, "send@next", "sequence@next")


@fault("offer a live journal", "a frozen send worker, while a second one looks for dead journals")
def offer_live_journal(world: World, rng: random.Random) -> int:
    """The lock on its file says that it lives: nothing of it is replayed."""
    pid = world.pid("send")
    if pid is None or not send_signal(pid, signal.SIGSTOP):
        return 0
    before = {path.name for path in world.journals()}
    with _frozen(pid):
        second = world.spawn("worker", "send", "--name", "send@third")
        with _beside(second):
            fresh = await_value(
                lambda: {path.name for path in world.journals()} - before or None, STARTED
            )
            return int(fresh is not None and second.poll() is None)


def _die_at(point: str, world: World, rng: random.Random) -> int:
    world.points.arm(point, "kill")
    provoke = _PROVOKED.get(point)
    if provoke is not None:
        provoke(world, rng)
    return int(world.points.await_reached(point, REACHED) is not None)


_PROVOKED: dict[str, Play] = {
    # Journals are replayed when a send worker starts after one was killed; leases end when nobody
    # is left who could give back.
    "replay.released": partial(_kill, "send"),
    "replay.written": partial(_kill, "send"),
    "reap.moved": lose_machine,
    "reap.committed": lose_machine,
}

for _point, _there in crashpoint.POINTS.items():
    fault(f"die at {_point}", f"kill -9 where {_there}")(partial(_die_at, _point))
