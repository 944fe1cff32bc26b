"""A pool of a region is loaded and unloaded: the fleet grows, drains what it no longer needs, and loses nothing."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from tasks import names, regions
from tasks.upkeep.overview import overview
from tests.live import seeds
from workers.autoscale import Bounds
from workers.embedded.home import Home
from workers.embedded.stack import Stack
from workers.supervisor import Fleet

MAILS = 300
# A relay that takes its time, and workers that take little at once: one cannot keep up.
SLOW = {
    "DRIPFLEET_WINDOW": "10",
    "DRIPFLEET_CONNECTIONS": "4",
    "DRIPFLEET_SCAN_EVERY": "0.2",
    "DRIPFLEET_DISPATCH_EVERY": "0.2",
    "DRIPFLEET_AUTOSCALE_TARGET_AGE": "1",
    "DRIPFLEET_AUTOSCALE_POLLING_INTERVAL": "0.2",
    "DRIPFLEET_AUTOSCALE_SCALE_UP_PERIOD": "0.5",
    "DRIPFLEET_AUTOSCALE_SCALE_DOWN_STABILIZATION_SECONDS": "1",
    "DRIPFLEET_AUTOSCALE_SCALE_DOWN_PERIOD": "0.5",
}
QUEUE = "send@eu"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Servers whose sink answers after 0.2 s."""
    for name, value in SLOW.items():
        monkeypatch.setenv(name, value)
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    with tempfile.TemporaryDirectory(prefix="df") as folder, Home(Path(folder)) as home:
        home.sink(latency=0.2)
        with Stack(home, environ={**plain, **SLOW, "DRIPFLEET_HOME": folder}) as stack:
            yield stack


@pytest.fixture
def database(stack: Stack) -> Iterator[Database]:
    database = Database(stack.database_url)
    migrate(database)
    yield database
    database.close()


def until(met: Callable[[], bool], what: str, fleet: Fleet, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        fleet.run(0.1)


def senders(fleet: Fleet) -> set[str]:
    return {name for name in fleet.pids() if name.startswith("send")}


def test_a_loaded_region_grows_to_its_most_and_shrinks_again_by_draining(
    stack: Stack, database: Database
) -> None:
    with database.transaction() as connection:
        assert regions.move(connection, "marketing", "eu")
    people = seeds.subscribers(database, MAILS)
    key = seeds.sequence(database, seeds.ONE_MAIL.format(class_="marketing", template="test/mail"))
    said: list[str] = []
    fleet = Fleet(
        stack,
        pools=("sequence", "upkeep"),
        regions=("eu",),
        scale=[Bounds(QUEUE, 1, 3)],
        flower=False,
        say=said.append,
    )
    try:
        fleet.start()
        fleet.wait_ready(60)
        assert senders(fleet) == {QUEUE}
        seeds.enroll(database, key, people)

        three = {QUEUE, f"{QUEUE}-2", f"{QUEUE}-3"}
        until(lambda: senders(fleet) == three, "three workers", fleet)
        host = socket.gethostname().partition(".")[0]
        nodes = {f"{node}@{host}" for node in ("send-eu", "send-eu-2", "send-eu-3")}
        until(lambda: nodes <= answered(database), "each answers under its own name", fleet)
        assert len(list(stack.home.journals.glob("*.journal"))) == 3
        served = list((stack.home.run / "metrics").glob(f"{QUEUE}-*.json"))
        assert len(served) == 3, "each has a port of its own"

        until(lambda: seeds.states(database) == {"sent": MAILS}, "all mails", fleet)
        until(lambda: senders(fleet) == {QUEUE}, "one worker again", fleet)
        # What drained left nothing behind to be replayed.
        assert len(list(stack.home.journals.glob("*.journal"))) == 1
    finally:
        fleet.hurry()
        fleet.stop()

    first, *_ = changes = [line for line in said if "→" in line]
    assert re.match(
        r"send@eu: 1 → [23] workers: the oldest due mail waits \d+ s, target 1 s", first
    )
    assert re.fullmatch(
        r"send@eu: 2 → 1 workers: for 1 s fewer would have kept .*; send@eu-2 drains", changes[-1]
    ), changes
    with database.snapshot() as connection:
        now = overview(connection)
    assert now.queues == (*names.POOLS, QUEUE)
    with redis.Redis.from_url(stack.redis_url, decode_responses=True) as client:
        # No queue but those that somebody declared, and no mail was ever rung for in the other one.
        queues = {key for key in client.scan_iter() if client.type(key) == "list"}
        elsewhere = "".join(client.lrange("send", 0, -1))
    assert queues <= {*names.POOLS, QUEUE} and names.DELIVER not in elsewhere
    with database.transaction() as connection:
        copies = connection.execute(text("SELECT count(*), max(attempts) FROM message")).one()
    assert tuple(copies) == (MAILS, 1)


def answered(database: Database) -> set[str]:
    with database.transaction() as connection:
        return set(connection.execute(text("SELECT worker FROM canary")).scalars())
