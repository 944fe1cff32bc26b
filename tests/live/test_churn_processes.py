"""The churn pool as processes: it fits and scores in forked children, and survives their death."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from celery import Celery
from sqlalchemy import text

pytest.importorskip("skops", reason="the extra ml is not installed")

from models.session import Database
from tasks import names
from tasks.base import ring
from tasks.churn import requests, runs, store, trainings
from tests.live import cdnow
from tests.live.processes import running, servers, until
from workers.celery import build
from workers.embedded.stack import Stack
from workers.settings import RedisSettings
from workers.supervisor import Fleet

PEOPLE = 3000
PATIENCE = 90.0  # seconds: a child imports what it fits with


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    # Small ranges, so that a kill falls between two; short leases, so that nobody waits for them.
    with servers(CHURN_RANGE="100", CHURN_LEASE="3") as stack:
        database = Database(stack.database_url)
        cdnow.fill(database, PEOPLE)
        database.close()
        yield stack


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Iterator[Fleet]:
    with running(Fleet(stack, pools=("sequence", "churn"), flower=False)) as fleet:
        yield fleet


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


def answer(fleet: Fleet, database: Database, subscriber: int) -> Any:
    """The answer to a request, waited for."""
    until(
        lambda: not requests.answered(database, "churn", subscriber).waiting,
        f"a score of subscriber {subscriber}", fleet, PATIENCE,
    )  # fmt: skip
    return requests.answered(database, "churn", subscriber)


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

    until(trained, "a training in a forked child", fleet, PATIENCE)
    with database.transaction() as connection:
        found = trainings.look(connection, asked)
        assert found.state == "done", found.said
        assert store.champion(connection, "churn") == found.artifact
    ring(names.CHURN_SCORE, names.tick())

    def begun() -> bool:
        with database.transaction() as connection:
            run = runs.newest(connection)
        return run is not None and progress(database, run).done >= 2

    until(begun, "two ranges", fleet, PATIENCE)
    for child in psutil.Process(fleet.pids()["churn"]).children():
        child.send_signal(signal.SIGKILL)
    with database.transaction() as connection:
        run = runs.newest(connection)
    assert run is not None and progress(database, run).state == "open"
    until(
        lambda: progress(database, run).state == "done",
        "what the killed ones left",
        fleet,
        PATIENCE,
    )
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
    until(lambda: progress(database, run).done > 0, "a run of the book", fleet, PATIENCE)
    for subscriber in (1, 2, 3):
        requests.ask(database, "churn", subscriber)
        ring(names.CHURN_ONE, names.tick())
        assert answer(fleet, database, subscriber).artifact == artifact
    assert progress(database, run).state == "open", "the book was still being scored"


def test_a_lost_doorbell_is_rung_again_by_the_dispatcher(
    fleet: Fleet, database: Database, app: Celery
) -> None:
    requests.ask(database, "churn", 9)  # and nobody rings
    assert requests.answered(database, "churn", 9).waiting
    found = answer(fleet, database, 9)
    assert found.said is None and 0 < found.value < 1
