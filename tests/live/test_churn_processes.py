"""The churn pool as processes: it fits and scores in forked children, and survives their death."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from celery import Celery
from sqlalchemy import text

pytest.importorskip("skops", reason="the extra ml is not installed")

from models.migrate import migrate
from models.session import Database
from tasks import names
from tasks.base import ring
from tasks.churn import requests, runs, store, trainings
from tests.live import cdnow
from workers.celery import build
from workers.embedded.stack import Stack
from workers.settings import RedisSettings
from workers.supervisor import Fleet

PEOPLE = 3000


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    # Small ranges, so that a kill falls between two; short leases, so that nobody waits for them.
    small = {"DRIPFLEET_CHURN_RANGE": "100", "DRIPFLEET_CHURN_LEASE": "3"}
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        with Stack(environ={**plain, **small, "DRIPFLEET_HOME": folder}) as stack:
            database = Database(stack.database_url)
            migrate(database)
            cdnow.fill(database, PEOPLE)
            database.close()
            yield stack


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Iterator[Fleet]:
    fleet = Fleet(stack, pools=("sequence", "churn"), flower=False)
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
def app(stack: Stack) -> Iterator[Celery]:
    made = build(None, RedisSettings.model_validate({"redis_url": stack.redis_url}))
    yield made
    made.close()


def until(met: Callable[[], bool], what: str, fleet: Fleet, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        fleet.poll()
        time.sleep(0.02)


def progress(database: Database, run: int) -> runs.Progress:
    with database.transaction() as connection:
        return runs.progress(connection, run)


def test_a_forked_child_fits_scores_and_is_killed_and_the_book_is_scored_all_the_same(
    fleet: Fleet, database: Database, app: Celery
) -> None:
    with database.transaction() as connection:
        asked = trainings.ask(
            connection, "churn", {"kinds": ["logistic", "boosting"], "promote": True}
        )
    ring(names.CHURN_FIT, names.tick())

    def trained() -> bool:
        with database.transaction() as connection:
            return bool(trainings.look(connection, asked).state != "open")

    until(trained, "a training in a forked child", fleet)
    with database.transaction() as connection:
        found = trainings.look(connection, asked)
        assert found.state == "done", found.said
        assert store.champion(connection, "churn") == found.artifact
    ring(names.CHURN_SCORE, names.tick())

    def begun() -> bool:
        with database.transaction() as connection:
            run = runs.newest(connection)
        return run is not None and progress(database, run).done >= 2

    until(begun, "two ranges", fleet)
    for child in psutil.Process(fleet.pids()["churn"]).children():
        child.send_signal(signal.SIGKILL)
    with database.transaction() as connection:
        run = runs.newest(connection)
    assert run is not None and progress(database, run).state == "open"
    until(lambda: progress(database, run).state == "done", "what the killed ones left", fleet)
    now = progress(database, run)
    assert (now.done, now.rows) == (now.ranges, PEOPLE)
    with database.transaction() as connection:
        counted = connection.execute(text("SELECT count(*) FROM score")).scalar_one()
    assert counted == PEOPLE


def test_a_single_score_does_not_wait_for_the_book(
    fleet: Fleet, database: Database, app: Celery
) -> None:
    # A book of three thousand ranges: it takes far longer than this test.
    with database.transaction() as connection:
        artifact = store.champions(connection)["churn"]
        run, _ = runs.open_run(connection, "churn", artifact, 1)
    ring(names.CHURN_RANGE, names.tick())
    until(lambda: progress(database, run).done > 0, "a run of the book", fleet)
    for subscriber in (1, 2, 3):
        requests.ask(database, "churn", subscriber)
        ring(names.CHURN_ONE, names.tick())
        until(
            lambda: not requests.answered(database, "churn", subscriber).waiting,  # noqa: B023
            "a single score",
            fleet,
        )
    assert progress(database, run).state == "open", "the book was still being scored"


def test_a_lost_doorbell_is_rung_again_by_the_dispatcher(
    fleet: Fleet, database: Database, app: Celery
) -> None:
    requests.ask(database, "churn", 9)  # and nobody rings
    until(
        lambda: not requests.answered(database, "churn", 9).waiting,
        "an answer without a bell",
        fleet,
    )
