"""From a customer's application to an edge: a producer, the broker, the pools, a kill in between."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from celery import Celery
from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from schedules.segment import reads
from tasks.audience import segment_book as book
from tasks.audience.address import address_hmac
from tasks.membership import edges_since
from workers.embedded.stack import Stack
from workers.supervisor import Fleet

PEOPLE = 50
SEGMENT = "key: buyers\ntitle: B\nwhen: \"count('buy', within='30d') >= 2\"\nrefresh: 1d\n"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        with Stack(environ={**plain, "DRIPFLEET_HOME": folder}) as stack:
            database = Database(stack.database_url)
            migrate(database)
            secret = stack.home.secret("address").encode()
            people = [f"person{n}@example.com" for n in range(PEOPLE)]
            with database.transaction() as connection:
                connection.execute(
                    text(
                        "INSERT INTO subscriber (address, address_hmac, external_id)"
                        " SELECT * FROM unnest(CAST(:a AS text[]), CAST(:h AS bytea[]),"
                        " CAST(:e AS text[]))"
                    ),
                    {
                        "a": people,
                        "h": [address_hmac(secret, each) for each in people],
                        "e": [f"crm-{n}" for n in range(PEOPLE)],
                    },
                )
                book.apply(connection, [reads(SEGMENT, "buyers.yaml")])
            database.close()
            yield stack


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Iterator[Fleet]:
    fleet = Fleet(stack, pools=("sequence", "upkeep"), flower=False)
    try:
        fleet.start()
        fleet.wait_ready(60)
        yield fleet
    finally:
        fleet.hurry()
        fleet.stop()


@pytest.fixture
def database(stack: Stack) -> Iterator[Database]:
    database = Database(stack.database_url)
    yield database
    database.close()


@pytest.fixture
def shop(stack: Stack) -> Iterator[Celery]:
    """An application that knows nothing of us but a name, a queue and a shape."""
    app = Celery("shop", broker=stack.redis_url, set_as_current=False)
    yield app
    app.close()


def until(holds: Callable[[], bool], what: str, fleet: Fleet, seconds: float = 60.0) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"no {what} within {seconds:.0f} s"
        fleet.poll()
        time.sleep(0.05)
    return time.monotonic() - began


def sent(shop: Celery, who: int, number: int) -> None:
    event = {"external_id": f"crm-{who}", "name": "buy", "source_id": f"{who}-{number}"}
    payload = {"v": 1, "source": "shop", "events": [event]}
    shop.send_task("track.record", kwargs=payload, queue="track")


def give_back(stack: Stack) -> None:
    """Let the hour pass after which Redis gives what a killed worker held to another one."""
    with redis.Redis.from_url(stack.redis_url) as client:
        for tag in client.zrange("unacked_index", 0, -1):
            client.zadd("unacked_index", {tag: 1})


def joined(database: Database) -> list[int]:
    with database.transaction() as connection:
        return [edge.subscriber_id for edge in edges_since(connection, "buyers", 0, 1000)]


def evaluated(database: Database) -> bool:
    with database.transaction() as connection:
        return book.shown(connection, "buyers").evaluated_at is not None


def test_a_segment_is_evaluated_and_then_moved_by_what_an_application_sends(
    fleet: Fleet, database: Database, shop: Celery
) -> None:
    until(lambda: evaluated(database), "first evaluation", fleet)
    assert joined(database) == []
    sent(shop, 0, 1)
    sent(shop, 0, 2)
    until(lambda: len(joined(database)) == 1, "edge of an event", fleet)


def test_who_sends_again_after_a_kill_loses_no_event_and_records_none_twice(
    stack: Stack, fleet: Fleet, database: Database, shop: Celery
) -> None:
    for who in range(1, PEOPLE):
        sent(shop, who, 1)
        sent(shop, who, 2)
        if who == PEOPLE // 2:
            os.kill(fleet.pids()["upkeep"], signal.SIGKILL)
    # The message that the worker was just taking is gone: kombu pops it before it notes that it has
    # it. The application cannot know which one that was, and sends all of them again.
    for who in range(1, PEOPLE):
        sent(shop, who, 1)
        sent(shop, who, 2)

    def all_joined() -> bool:
        give_back(stack)
        return len(joined(database)) == PEOPLE

    until(all_joined, "edges of everybody", fleet)
    with database.transaction() as connection:
        counted = connection.execute(text("SELECT count(*) FROM event")).scalar_one()
    assert counted == 2 * PEOPLE
