"""Faults of Postgres: ended sessions, a crash, a cut line, locks, full tables of connections and disks."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator

import psycopg
from sqlalchemy import text

from tasks.moves import pause
from workers.chaos.fault import fault
from workers.chaos.proxy import Mode
from workers.chaos.world import JOURNAL_DISK, World, await_value

TERMINATE = text("""
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name LIKE 'dripfleet-%' AND application_name NOT IN ('dripfleet-chaos')
  AND pid <> pg_backend_pid()
""")
LOCK_ROWS = """
SELECT count(*) FROM (
    SELECT 1 FROM message WHERE run_at IS NOT NULL OR watch_at IS NOT NULL
    ORDER BY id DESC LIMIT 30 FOR UPDATE SKIP LOCKED) x
"""
LOCK_ENROLLMENTS = """
SELECT count(*) FROM (
    SELECT 1 FROM enrollment WHERE active ORDER BY id DESC LIMIT 30 FOR UPDATE SKIP LOCKED) x
"""
LOCK_SUBSCRIBERS = """
SELECT count(*) FROM (
    SELECT 1 FROM subscriber ORDER BY id LIMIT 100000 FOR UPDATE SKIP LOCKED) x
"""


@fault("terminate backends", "pg_terminate_backend of every session of the fleet")
def terminate(world: World, rng: random.Random) -> int:
    """Whatever was in flight is undone, or its answer is lost."""
    await_value(lambda: world.proxy.connections or None, 60.0)
    with world.database.transaction() as connection:
        return int(connection.execute(TERMINATE).scalar_one())


@fault("crash Postgres", "an immediate stop of Postgres, and its recovery")
def crash(world: World, rng: random.Random) -> int:
    """Commits stand, the rest is undone."""
    return int(world.restart_postgres())


@fault("cut Postgres off", "the line to Postgres is cut for some seconds")
def cut(world: World, rng: random.Random) -> int:
    """Leases run on; whoever cannot record keeps the reply in its journal."""
    with _line(world, "cut") as connections:
        time.sleep(rng.uniform(1, 2) * world.delivery.working_lease)
        return connections


@fault("stall the line", "packets to and from Postgres are held back for some seconds")
def stall(world: World, rng: random.Random) -> int:
    """Answers come late, and a dot that would come too late is not written."""
    with _line(world, "stalled") as connections:
        time.sleep(rng.uniform(1, 2) * world.delivery.working_lease)
        return connections


@fault("swallow answers", "Postgres does what it is told, and its answers are lost")
def swallow(world: World, rng: random.Random) -> int:
    """Whether a COMMIT stands is not known: no dot follows."""
    with _line(world, "mute") as connections:
        time.sleep(1.0)
    return connections


@fault("cut before RECORD", "Postgres is cut off between a reply and its RECORD")
def cut_before_record(world: World, rng: random.Random) -> int:
    """The reply is in the journal, and is recorded when the line is back."""
    world.points.arm("reply.noted", "wait")
    reached = world.points.await_reached("reply.noted", 60.0)
    if reached is None:
        return 0
    with _line(world, "cut"):
        reached.go.touch()
        time.sleep(world.delivery.working_lease)
    return 1


@fault("lock rows", "messages and enrollments are locked from outside for three seconds")
def lock_rows(world: World, rng: random.Random) -> int:
    """The others are not held up."""
    with _held(world, LOCK_ROWS) as rows, _held(world, LOCK_ENROLLMENTS) as more:
        time.sleep(3)
        return rows + more


@fault("long import", "an import holds every subscriber row")
def long_import(world: World, rng: random.Random) -> int:
    """Nobody waits for it: ARM locks a number, not a row."""
    with _held(world, LOCK_SUBSCRIBERS) as rows:
        time.sleep(5)
        return rows


@fault("no connections left", "somebody takes every connection that Postgres has")
def exhaust(world: World, rng: random.Random) -> int:
    """Who needs a new one waits."""
    with contextlib.ExitStack() as taken:
        count = 0
        with contextlib.suppress(psycopg.OperationalError):
            while count < 200:
                taken.enter_context(psycopg.connect(world.postgres.url, connect_timeout=5))
                count += 1
        time.sleep(3)
        return count


@fault("pause and resume", "the operator pauses a sequence and a stream, and lets them go on")
def pause_and_resume(world: World, rng: random.Random) -> int:
    """Paused work is parked, then woken."""
    key, stream = "chaos-news", "transactional"
    with world.database.transaction() as connection:
        done = int(pause.pause(connection, key, "chaos"))
        done += int(pause.pause_stream(connection, stream, "chaos"))
    try:
        time.sleep(3)
    finally:
        with world.database.transaction() as connection:
            pause.resume(connection, key)
            pause.resume_stream(connection, stream)
    return done


def _no_small_disk(world: World) -> str | None:
    return None if world.small_disk else "no small disk could be mounted here (needs root)"


@fault("full journal disk", "the disk of the journals is full for four seconds", _no_small_disk)
def fill_journal_disk(world: World, rng: random.Random) -> int:
    """No dot without a journal line, so nothing is armed meanwhile."""
    ballast = world.home.journals / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for _ in range(2 * JOURNAL_DISK // 4096):
                file.write(bytes(4096))
        time.sleep(4)
    finally:
        size = ballast.stat().st_size
        ballast.unlink()
    return int(size > JOURNAL_DISK // 2)


@contextlib.contextmanager
def _line(world: World, mode: Mode) -> Iterator[int]:
    """The proxy in a mode; afterwards what was there is cut, and whoever comes is let through."""
    # There is nobody to cut off while everybody is being started again.
    await_value(lambda: world.proxy.connections or None, 60.0)
    connections = world.proxy.set(mode)
    try:
        yield connections
    finally:
        if mode == "mute":
            world.proxy.set("cut")
        world.proxy.set("open")


@contextlib.contextmanager
def _held(world: World, statement: str) -> Iterator[int]:
    """Rows locked in a transaction from outside."""
    with psycopg.connect(world.postgres.url, application_name="somebody") as connection:
        row = connection.execute(statement).fetchone()
        yield int(row[0]) if row else 0
        connection.rollback()
