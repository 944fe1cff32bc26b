"""Texts by the Batch API: cheaper, checked as ever, and left by nobody, whatever dies or is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import text

from models.session import Database
from schedules.loader import loads
from schedules.prompt_file import loads_prompt
from tasks.personalize.batch_list import newest, troubled
from tasks.personalize.batches import Batches
from tasks.personalize.report import report
from tasks.personalize.settings import ModelSettings
from tasks.personalize.work import Writer
from tasks.sequence.prompts import publish_prompts
from tasks.sequence.words import Asker, work_of
from tasks.sequence.words_at_hand import at_hand
from tests.live import seeds
from workers.doctor.words import texts as doctor_words
from workers.embedded import launch
from workers.embedded.model_process import start_model
from workers.embedded.model_server import Manners, in_thread

NAME = "test/batch"
PROMPT = """
task: Write a friendly line for a customer whom we have not seen for a while.
language: en
fields: {city: {from: sub.city, text: 40}}
slots: {subject: {max: 60}, opening: {max: 200}}
variants:
  - {subject: We have not seen you for a while, opening: "We have missed you, and would be glad to see you again."}
"""
SOURCE = """
key: batched
title: Batched
class: marketing
topic: news
entry: {manual: true}
steps:
  - {id: mail, send: {template: test/mail, personalize: {prompt: test/batch, lead: 3d}}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The model server that ships, as a process of its own."""
    running = start_model(tmp_path_factory.mktemp("model"))
    yield running.url
    launch.end(running)


def settings(url: str, **own: Any) -> ModelSettings:
    values: dict[str, Any] = {"batch_min": 10, "batch_gather": 0, "batch_poll": 30}
    return ModelSettings(url=url, timeout=5, prices="variants=10/10", **(values | own))


def wanted(database: Database, n: int = 20) -> None:
    """`n` different texts that are needed in two days."""
    ids = seeds.subscribers(database, n)
    key = seeds.sequence(database, SOURCE)
    with database.transaction() as connection:
        made = loads_prompt(PROMPT, NAME, "batch.yaml")
        publish_prompts(connection, loads(SOURCE, "x.yaml"), {NAME: made})
        connection.execute(
            text(
                "UPDATE subscriber SET attributes = jsonb_build_object('city',"
                " translate(CAST(id AS text), '0123456789', 'abcdefghij'))"
            )
        )
    seeds.enroll(database, key, ids)
    run(database, "UPDATE enrollment SET due_at = clock_timestamp() + interval '2 days'")
    assert Asker(database, "variants").ask() == n


def run(database: Database, sql: str) -> None:
    with database.transaction() as connection:
        connection.execute(text(sql))


def one(database: Database, sql: str) -> Any:
    with database.transaction() as connection:
        return connection.execute(text(sql)).one()


def counted(database: Database, column: str) -> dict[Any, int]:
    with database.transaction() as connection:
        rows = connection.execute(text(f"SELECT {column}, count(*) FROM wording GROUP BY 1"))
        return {row[0]: row[1] for row in rows}


def move(batches: Batches, database: Database) -> None:
    """Move every batch on, up to its end: each look is due at once."""
    for _ in range(20):
        run(database, "UPDATE word_batch SET look_at = '-infinity'")
        if not batches.work():
            return


def alone(database: Database, url: str, **own: Any) -> dict[str, int]:
    made = Writer(database, settings(url, **own))
    try:
        return made.work()
    finally:
        made.close()


def spend(database: Database) -> tuple[int, int]:
    row = one(database, "SELECT reserved, settled FROM model_spend WHERE scope = 'all'")
    other = one(database, "SELECT reserved, settled FROM model_spend WHERE scope <> 'all'")
    assert row == other
    return row.reserved, row.settled


def at_the_server(url: str) -> tuple[list[Any], list[Any]]:
    """Batches and files."""
    with OpenAI(api_key="none", base_url=url) as client:
        return list(client.batches.list()), list(client.files.list())


def test_texts_that_are_needed_far_ahead_are_one_batch_at_half_the_price(
    database: Database, server: str
) -> None:
    wanted(database)
    before = len(at_the_server(server)[0])
    gathering = settings(server, batch_gather=300)
    assert Batches(database, gathering).work() == 0, "more may come yet"
    assert alone(database, server, batch_gather=300)["ready"] == 0, "and nobody asks meanwhile"
    batches = Batches(database, settings(server))
    batches.work()
    reserved, settled = spend(database)
    assert reserved > 0 and settled == 0
    assert alone(database, server) == {"ready": 0, "failed": 0, "later": 0}, "nor for what is in it"
    with database.transaction() as connection:
        ids = connection.execute(text("SELECT id FROM enrollment")).scalars().all()
        # A mail that goes all the same has the template's own words.
        found = at_hand(connection, [(ids[0], loads(SOURCE, "x.yaml"))])
        assert found[ids[0]]["mail"].reason == "in_batch"
        run(database, "UPDATE word_batch SET look_at = '-infinity'")
        assert "personalize.write" in work_of(connection), "somebody is rung for to look at it"
    move(batches, database)
    assert counted(database, "state") == {"ready": 20}
    figures = one(
        database, "SELECT sum(cost)::bigint AS cost, sum(saved)::bigint AS saved FROM wording"
    )
    assert spend(database) == (0, figures.cost) and abs(figures.cost - figures.saved) <= 20
    with database.transaction() as connection:
        (line,) = report(connection)
        (listed,) = newest(connection, 9)
        assert not troubled(connection)
    assert (line.calls, line.batched, line.saved) == (20, 20, figures.saved / 1_000_000)
    assert (listed.state, listed.ready, listed.cost) == ("ended", 20, figures.cost / 1_000_000)
    made, files = at_the_server(server)
    assert len(made) == before + 1 and files == [], "what was told stays with nobody"


def test_a_worker_that_is_killed_anywhere_leaves_one_batch_and_every_text(
    database: Database, server: str
) -> None:
    wanted(database)
    before = {each.id for each in at_the_server(server)[0]}
    points = ["made", "uploaded", "created", "taken_in"]
    values = settings(server, batch_poll=1e-9).model_dump()
    environ = {f"DRIPFLEET_MODEL_{name.upper()}": str(value) for name, value in values.items()}
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.live.killed_batches", database.url,
            *(f"personalize.batch_{point}" for point in points),
        ],
        env=os.environ | environ | {"DRIPFLEET_MODEL_KEY": ""},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["9"] * len(points)
    move(Batches(database, settings(server)), database)
    made, files = at_the_server(server)
    assert len({each.id for each in made} - before) == 1 and files == []
    assert counted(database, "state") == {"ready": 20} and counted(database, "batched") == {1: 20}
    figures = one(database, "SELECT sum(cost)::bigint AS cost FROM wording")
    batch = one(database, "SELECT ready, rejected, returned, cost FROM word_batch")
    assert tuple(batch) == (20, 0, 0, figures.cost)
    assert spend(database) == (0, figures.cost), "nothing is paid for twice, nor held for ever"


def test_lines_that_are_refused_failed_or_not_answered_go_to_single_calls(
    database: Database,
) -> None:
    wanted(database, 60)
    manners = Manners(fail={500: 0.2}, garbage=0.3, expire=0.2, seed=5)
    with in_thread(manners) as model:
        move(Batches(database, settings(model.url)), database)
    batch = one(database, "SELECT texts, ready, rejected, returned, status, why FROM word_batch")
    assert batch.texts == batch.ready + batch.rejected + batch.returned
    assert min(batch.ready, batch.rejected, batch.returned) > 3 and batch.status == "expired"
    whys = counted(database, "why")
    assert whys == {
        None: batch.ready, "batch_rejected": batch.rejected, "batch_expired": batch.returned
    }  # fmt: skip
    bad = one(database, "SELECT fault FROM wording WHERE why = 'batch_rejected' LIMIT 1").fault
    assert bad, "the single call is told why"
    with database.transaction() as connection:
        (finding,) = doctor_words(connection)
    assert "went back to single calls" in finding.says
    with in_thread() as model:
        again = Batches(database, settings(model.url))
        assert again.work() == 0, "no text is put into a second batch"
        assert alone(database, model.url)["ready"] == batch.rejected + batch.returned
        assert model.calls.total() == batch.rejected + batch.returned
    assert counted(database, "state") == {"ready": 60} and spend(database)[0] == 0


def test_a_batch_that_comes_too_late_is_stopped_and_its_texts_are_asked_for_alone(
    database: Database,
) -> None:
    wanted(database)
    with in_thread(Manners(batch=3600)) as model:
        batches = Batches(database, settings(model.url))
        batches.work()
        # One is needed so soon that nobody waits for the server; the others are still far away.
        run(
            database,
            "UPDATE wording SET needed_at = clock_timestamp() + interval '10 minutes'"
            " WHERE key = (SELECT min(key) FROM wording)",
        )
        run(database, "UPDATE word_batch SET look_at = '-infinity'")
        batches.work()
        assert counted(database, "why") == {"in_batch": 19, "batch_late": 1}
        assert spend(database)[1] > 0, "it may be billed, and counts as spent"
        run(database, "UPDATE wording SET needed_at = clock_timestamp() + interval '50 minutes'")
        move(batches, database)
        (made,), _ = at_the_server(model.url)
        assert made.status == "cancelled"
        assert counted(database, "why") == {"batch_late": 20}
        assert alone(database, model.url)["ready"] == 20
    assert spend(database)[0] == 0


@pytest.mark.parametrize("knows", [False, True])
def test_a_server_that_takes_no_batch_or_forgets_one_costs_no_mail_its_words(
    database: Database, knows: bool
) -> None:
    wanted(database)
    with in_thread(Manners(batch=3600)) as model:
        batches = Batches(database, settings(model.url))
        if knows:
            batches.work()
            model.desk._batches.clear()
        else:
            model.desk.post = lambda *_: None  # type: ignore[method-assign]
        move(batches, database)
        assert counted(database, "why") == {"batch_lost" if knows else "batch_refused": 20}
        reserved, settled = spend(database)
        assert reserved == 0 and (settled > 0) == knows
        if not knows:
            run(database, "UPDATE wording SET batch_id = NULL")
            assert batches.work() == 0, "it is not asked again within the hour"
        assert alone(database, model.url)["ready"] == 20
    with database.transaction() as connection:
        assert [each.returned for each in troubled(connection)] == [20]


def test_a_batch_holds_no_more_than_the_budgets_do(database: Database, server: str) -> None:
    wanted(database)
    batches = Batches(database, settings(server, budget_sequence=0.06))
    batches.work()
    stands = one(database, "SELECT texts FROM word_batch")
    reserved, _ = spend(database)
    assert 0 < stands.texts < 20 and reserved <= 60_000
    each = one(database, "SELECT max(reserved) AS most FROM wording").most
    assert reserved + each > 60_000, "and they are used up to the last text that fits"
    move(Batches(database, settings(server, batch_min=0)), database)
    assert counted(database, "state") == {"ready": stands.texts, "wanted": 20 - stands.texts}


def test_a_few_texts_and_those_that_are_needed_soon_are_no_batch(
    database: Database, server: str
) -> None:
    wanted(database, 9)
    assert Batches(database, settings(server)).work() == 0
    few = settings(server, batch_min=5)
    run(database, "UPDATE wording SET needed_at = clock_timestamp() + interval '24 hours'")
    assert Batches(database, few).work() == 0
    assert Batches(database, settings(server, batch_min=0)).work() == 0
    assert alone(database, server)["ready"] == 9
    assert counted(database, "batched") == {0: 9}
