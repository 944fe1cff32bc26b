"""Words of a model: shared, checked, paid for within a budget, and never in the way of a send."""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from models.session import Database
from schedules.loader import loads
from schedules.prompt_file import loads_prompt
from tasks.moves.claim import claim
from tasks.personalize import money, store
from tasks.personalize.client import Answer
from tasks.personalize.pace import Pace, yielding
from tasks.personalize.settings import ModelSettings
from tasks.personalize.work import Writer
from tasks.send.dossier import dossier
from tasks.send.render import Bundle
from tasks.sequence.prompts import publish_prompts
from tasks.sequence.words import Asker, work_of
from tasks.sequence.words_at_hand import at_hand
from tests.live import seeds
from tests.live.fleet import Fleet, eventually
from workers.doctor.words import texts as doctor_words
from workers.embedded import launch
from workers.embedded.ledger import read_mail
from workers.embedded.model_process import start_model
from workers.embedded.model_server import Manners, in_thread
from workers.embedded.sink import Sink

NAME = "test/words"
PROMPT = """
task: Write a friendly line for a customer whom we have not seen for a while.
language: en
fields:
  orders: {from: sub.orders, bands: [2, 5]}
  city: {from: sub.city, text: 40}
names: [first_name]
slots: {subject: {max: 60}, opening: {max: 200}}
variants:
  - {subject: "We have not seen you, [first_name]", opening: "It has been a while, and we would be glad to see you again."}
  - {subject: We have not seen you for a while, opening: "We have missed you, and would be glad to see you again."}
banned: [guarantee]
"""
MAIL = Bundle(
    NAME,
    {
        "subject.txt": "{{ words.subject | default('Our own words') }}",
        "body.txt": "{{ words.opening | default('Plain.') }}",
    },
)
ONE = """
key: worded
title: Worded
class: marketing
topic: news
entry: {manual: true}
steps:
  - {id: mail, send: {template: test/words, personalize: {prompt: test/words, lead: LEAD}}}
"""
ARMS = """
key: worded
title: Worded
class: marketing
topic: news
goal: {event: purchase, window: 14d}
entry: {manual: true}
steps:
  - id: split
    experiment: {arms: {plain: 50, offer: 50}}
    paths: {plain: mail, offer: offered}
  - {id: offered, update: {set: {offered: true}}}
  - id: mail
    send: {template: test/words, personalize: {prompt: test/words, per: segment, segment: value}}
"""
WAITED = """
key: worded
title: Worded
class: marketing
topic: news
entry: {manual: true}
steps:
  - {id: pause, wait: {delay: 3s}}
  - {id: mail, send: {template: test/words, personalize: {prompt: test/words, lead: 2s}}}
"""


class Words(Fleet):
    """The fleet of a test with its asker and its writer, and what it made of its people."""

    def __init__(self, database: Database, sink: Sink, folder: Path) -> None:
        super().__init__(database, sink, folder)
        self.asker = Asker(database, "variants")

    def people(self, n: int, source: str, *, prompt: str = PROMPT, **attributes: Any) -> list[int]:
        ids = seeds.subscribers(self.database, n)
        key = seeds.sequence(self.database, source, {MAIL.name: MAIL})
        with self.database.transaction() as connection:
            made = loads_prompt(prompt, NAME, "words.yaml")
            publish_prompts(connection, loads(source, "x.yaml"), {NAME: made})
            connection.execute(
                text("UPDATE subscriber SET attributes = CAST(:a AS jsonb)"),
                {"a": json.dumps(attributes)},
            )
        seeds.enroll(self.database, key, ids)
        self.scan()
        return ids

    def counts(self) -> dict[str, int]:
        with self.database.transaction() as connection:
            rows = connection.execute(text("SELECT outcome, sum(n) FROM word_count GROUP BY 1"))
            return {row[0]: int(row[1]) for row in rows}

    def subjects(self) -> set[str]:
        folder = self.sink.ledger.parent
        mails = [read_mail(folder, line).decode() for line in self.sink.lines()]
        found = [re.findall(r"(?m)^Subject: (.*?)\r?$", mail)[0] for mail in mails]
        return {str(make_header(decode_header(each))) for each in found}


@pytest.fixture
def fleet(database: Database, sink: Sink, tmp_path: Path) -> Iterator[Words]:
    made = Words(database, sink, tmp_path)
    yield made
    made.service.loop.join(10)


def writer(database: Database, url: str, **settings: Any) -> Writer:
    return Writer(database, ModelSettings(url=url, timeout=5, **settings))


def one(database: Database, sql: str, **values: Any) -> Any:
    with database.transaction() as connection:
        return connection.execute(text(sql), values).one()


def test_one_call_serves_everybody_with_the_same_fields_and_names_are_put_back_here(
    fleet: Words,
) -> None:
    ids = fleet.people(20, ONE.replace("LEAD", "30m"), orders=3, city="Köln")
    assert fleet.states() == {}, "whoever comes in now waits for the words, one lead at most"
    assert fleet.asker.ask() == 20
    assert fleet.asker.ask() == 0, "nobody is asked for twice"
    with in_thread() as model:
        made = writer(fleet.database, model.url)
        assert made.work() == {"ready": 1, "failed": 0, "later": 0}
        made.close()
        assert model.calls.total() == 1
    fleet.scan()  # they were woken
    assert fleet.send() == {"claimed": 20, "sent": 20}
    assert fleet.counts() == {"model": 20}
    stored = one(fleet.database, "SELECT told, asks, calls FROM wording")
    assert stored.told == {"orders": "2 to 5", "city": "Köln", "first_name": "[first_name]"}
    assert (stored.asks, stored.calls) == (20, 1)
    assert one(fleet.database, "SELECT count(*) AS n FROM asked").n == 0
    words = one(fleet.database, "SELECT variables -> 'words' AS w FROM message LIMIT 1").w
    assert "Zoë" not in json.dumps(words), "frozen with the placeholder, filled where it is made"
    # A second enrollment finds the text there and goes at once, without a call.
    with fleet.database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE enrollment SET active = false, due_at = NULL,"
                " ended_at = now(), end_reason = 'x'"
            )
        )
        connection.execute(
            text(
                "INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, entry_no,"
                " due_at) VALUES ('worded', 1, :id, 2, clock_timestamp())"
            ),
            {"id": ids[0]},
        )
    fleet.scan()
    assert fleet.asker.ask() == 1
    fleet.scan()
    assert fleet.send() == {"claimed": 1, "sent": 1}


def test_a_dead_model_leaves_the_mail_on_time_with_its_own_words_and_the_reason(
    fleet: Words,
) -> None:
    fleet.people(5, ONE.replace("LEAD", "2s"))
    assert fleet.asker.ask() == 5
    made = writer(fleet.database, "http://127.0.0.1:9/v1")
    assert made.work()["later"] == 1
    made.close()
    due = one(fleet.database, "SELECT max(due_at) AS at FROM enrollment").at

    def planned() -> bool:
        fleet.scan()
        return bool(fleet.states())

    eventually(planned)
    fleet.send()
    assert fleet.states() == {"sent": 5}
    assert fleet.counts() == {"model_down": 5}
    late = one(fleet.database, "SELECT max(terminal_at) - :due AS late FROM message", due=due).late
    assert late < dt.timedelta(seconds=2)
    assert fleet.subjects() == {"Our own words"}
    said = one(fleet.database, "SELECT reason, detail FROM decision WHERE kind = 'worded' LIMIT 1")
    assert said.reason == "model_down" and "own words" in said.detail["said"]


def test_a_text_per_segment_is_one_a_label_and_knows_nothing_else(fleet: Words) -> None:
    bare = PROMPT.replace("fields:\n  orders: {from: sub.orders, bands: [2, 5]}\n", "")
    bare = bare.replace("  city: {from: sub.city, text: 40}\nnames: [first_name]\n", "")
    bare = bare.replace(", [first_name]", "")
    source = ONE.replace("LEAD", "30m, per: segment, segment: value")
    ids = fleet.people(8, source, prompt=bare, orders=1)
    with fleet.database.transaction() as connection:
        run = connection.execute(
            text(
                "INSERT INTO segment_run (segment, artifact, promoted_at)"
                " VALUES ('value', 'x', now()) RETURNING id"
            )
        ).scalar_one()
        for number, each in enumerate(ids[:6]):
            connection.execute(
                text("INSERT INTO segment_member VALUES ('value', :run, :id, :label)"),
                {"run": run, "id": each, "label": "high" if number % 2 else "low"},
            )
    assert fleet.asker.ask() == 8
    rows = _rows(fleet.database, "SELECT told ->> 'segment' AS label, asks, told FROM wording")
    assert {row.label: row.asks for row in rows} == {"high": 3, "low": 3, None: 2}
    assert all(set(row.told) == {"segment"} for row in rows)
    model = Calls(FINE)
    made = Writer(fleet.database, ModelSettings(url="http://unused"), model)
    assert made.work()["ready"] == 3 and model.asked == 3
    made.close()


def test_arms_of_an_experiment_share_no_text_that_is_made_per_segment(fleet: Words) -> None:
    bare = "task: Write a line.\nlanguage: en\nslots: {subject: {max: 60}, opening: {max: 200}}\n"
    bare += "variants:\n  - {subject: We have not seen you, opening: We would be glad to see you again.}\n"
    fleet.people(30, ARMS, prompt=bare)
    assert fleet.asker.ask() == 30
    made = Writer(fleet.database, ModelSettings(url="http://unused"), Calls(FINE))
    assert made.work()["ready"] == 2
    made.close()
    rows = _rows(fleet.database, "SELECT told ->> 'arm of split' AS arm, asks FROM wording")
    asks = {row.arm: row.asks for row in rows}
    fleet.scan()
    stands = _rows(
        fleet.database,
        "SELECT arm, count(*) AS n FROM experiment_assignment GROUP BY 1",
    )
    assert {row.arm: row.n for row in stands} == asks and sum(asks.values()) == 30
    assert fleet.send()["sent"] == 30 and fleet.counts() == {"model": 30}


def test_words_are_asked_for_in_the_language_of_the_mail_that_somebody_gets(fleet: Words) -> None:
    ids = fleet.people(3, ONE.replace("LEAD", "30m"), orders=3)
    german = "{subject: Wir haben dich vermisst, opening: Wir freuen uns auf dich.}"
    prompt = PROMPT[: PROMPT.index("variants")].replace("language: en", "language: de")
    other = loads_prompt(f"{prompt}variants: [{german}]\n", f"{NAME}/de", "words.yaml")
    made = replace(loads_prompt(PROMPT, NAME, "words.yaml"), translations={"de": other})
    with fleet.database.transaction() as connection:
        publish_prompts(connection, loads(ONE.replace("LEAD", "30m"), "x.yaml"), {NAME: made})
        connection.execute(
            text("UPDATE subscriber SET locale = 'de-AT' WHERE id = :id"), {"id": ids[0]}
        )
        connection.execute(
            text("UPDATE subscriber SET locale = 'en' WHERE id = ANY(:ids)"), {"ids": ids[1:]}
        )
    assert fleet.asker.ask() == 3
    asked = _rows(fleet.database, "SELECT prompt, asks FROM wording ORDER BY 1")
    assert [tuple(row) for row in asked] == [(NAME, 2), (f"{NAME}/de", 1)]
    with in_thread() as model:
        maker = writer(fleet.database, model.url)
        assert maker.work() == {"ready": 2, "failed": 0, "later": 0}
        maker.close()
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE subscriber SET locale = 'de' WHERE id = :id"), {"id": ids[1]}
        )
    fleet.scan()
    fleet.send()
    assert "Wir haben dich vermisst" in fleet.subjects()
    assert fleet.counts() == {"model": 2, "other_language": 1}


def test_what_message_show_renders_is_the_mail_with_its_words(fleet: Words) -> None:
    fleet.people(1, ONE.replace("LEAD", "30m"))
    fleet.asker.ask()
    made = Writer(fleet.database, ModelSettings(url="http://unused"), Calls(NAMED))
    made.work()
    made.close()
    fleet.scan()
    fleet.send()
    with fleet.database.transaction() as connection:
        shown = dossier(connection, "1", fleet.settings).mail
    assert shown is not None and shown.likeness == "same"
    assert fleet.subjects() == {"We have not seen you, Zoë"}


def test_a_model_server_that_is_killed_midway_leaves_every_mail_on_time(
    fleet: Words, tmp_path: Path
) -> None:
    server = start_model(tmp_path / "model")
    made = writer(fleet.database, server.url, concurrency=1)
    ids = fleet.people(6, ONE.replace("LEAD", "5s"))
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE subscriber SET attributes = CAST(:a AS jsonb) WHERE id = ANY(:ids)"),
            {"a": json.dumps({"orders": 9}), "ids": ids[:3]},
        )
    try:
        assert fleet.asker.ask() == 6
        due = one(fleet.database, "SELECT max(due_at) AS at FROM enrollment").at
        ended: list[bool] = []

        def once() -> bool:  # after the first text
            ended.append(True)
            return len(ended) > 1

        assert made.work(once)["ready"] == 1
        launch.end(server, immediate=True)
        assert not server.alive()
        assert made.work()["later"] == 1
    finally:
        launch.end(server, immediate=True)
        made.close()

    def sent() -> bool:
        fleet.scan()
        fleet.send()
        return fleet.states() == {"sent": 6}

    eventually(sent)
    assert fleet.counts() == {"model": 3, "model_down": 3}
    late = one(fleet.database, "SELECT max(terminal_at) - :due AS late FROM message", due=due).late
    assert late < dt.timedelta(seconds=2)


def test_words_are_asked_for_in_the_wait_before_and_the_mail_goes_when_the_wait_says(
    fleet: Words,
) -> None:
    fleet.people(3, WAITED, orders=1)
    due = one(fleet.database, "SELECT max(due_at) AS at FROM enrollment").at
    assert fleet.asker.ask() == 0, "it is more than a lead away"
    eventually(lambda: fleet.asker.ask() == 3)
    with in_thread() as model:
        made = writer(fleet.database, model.url)
        made.work()
        made.close()
    assert one(fleet.database, "SELECT max(due_at) AS at FROM enrollment").at == due

    def sent() -> bool:
        fleet.scan()
        fleet.send()
        return fleet.states() == {"sent": 3}

    eventually(sent)
    assert fleet.counts() == {"model": 3}
    assert one(fleet.database, "SELECT min(created_at) AS at FROM message").at >= due


def test_what_no_check_lets_through_never_stands_in_a_mail(fleet: Words) -> None:
    ids = fleet.people(30, ONE.replace("LEAD", "30m"))
    with fleet.database.transaction() as connection:
        for n, each in enumerate(ids):
            city = "".join(chr(97 + (n * 7 + i) % 26) for i in range(6))
            connection.execute(
                text("UPDATE subscriber SET attributes = CAST(:a AS jsonb) WHERE id = :id"),
                {"a": json.dumps({"city": city}), "id": each},
            )
    fleet.asker.ask()
    with in_thread(Manners(garbage=1.0, seed=3)) as model:
        made = writer(fleet.database, model.url)
        assert made.work() == {"ready": 0, "failed": 26, "later": 0}
        made.close()
        assert model.calls["garbage"] == 52, "each is asked for once more with the reason"
    fleet.scan()
    fleet.send()
    assert fleet.counts() == {"checks": 30}
    assert fleet.subjects() == {"Our own words"}


def test_a_429_keeps_everybody_from_asking_for_as_long_as_it_says(fleet: Words) -> None:
    fleet.people(1, ONE.replace("LEAD", "30m"))
    fleet.asker.ask()
    with in_thread(Manners(fail={429: 1.0})) as model:
        made = writer(fleet.database, model.url)
        assert made.work()["later"] == 1
        assert made.work()["later"] == 0 and model.calls.total() == 1
        with fleet.database.transaction() as connection:
            assert "personalize.write" not in work_of(connection)
        eventually(lambda: made.work()["later"] == 1)
        made.close()
    circuit = one(fleet.database, "SELECT faults, why FROM model_circuit")
    assert (circuit.faults, circuit.why) == (2, "answers 429")


def test_four_workers_that_race_never_pass_a_budget_by_a_unit(database: Database) -> None:
    budgets = money.Budgets(day=1_000, sequence=700)
    cost = 7
    start = threading.Barrier(4)

    def spend(number: int) -> int:
        start.wait()
        permitted = 0
        for turn in range(120):
            key = "ab"[(number + turn) % 2]
            with database.transaction() as connection:
                held = money.reserve(connection, key, 10, budgets)
            if held is not None:
                permitted += 1
                with database.transaction() as connection:
                    money.settle(connection, held, cost)
            with database.transaction() as connection:
                worst = connection.execute(
                    text(
                        "SELECT max(reserved + settled - CASE scope WHEN 'all' THEN 1000 ELSE 700"
                        " END) FROM model_spend"
                    )
                ).scalar_one()
                assert worst is None or worst <= 0
        return permitted

    with ThreadPoolExecutor(4) as threads:
        permitted = sum(threads.map(spend, range(4)))
    stands = {
        row.scope: (row.reserved, row.settled)
        for row in _rows(database, "SELECT scope, reserved, settled FROM model_spend")
    }
    assert all(reserved == 0 for reserved, _ in stands.values())
    assert stands["all"][1] == permitted * cost
    assert 1_000 - 10 < stands["all"][1] <= 1_000, "and it is used up to the last call that fits"
    assert max(stands["sequence:a"][1], stands["sequence:b"][1]) <= 700


def test_a_call_that_no_budget_holds_is_not_made(fleet: Words) -> None:
    fleet.people(2, ONE.replace("LEAD", "30m"))
    fleet.asker.ask()
    with in_thread() as model:
        made = writer(fleet.database, model.url, prices="variants=1/1", budget_day=0.0001)
        assert made.work()["later"] == 1
        made.close()
        assert model.calls.total() == 0
    assert one(fleet.database, "SELECT why FROM wording").why == "budget"
    with fleet.database.transaction() as connection:
        connection.execute(text("UPDATE wording SET created_at = now() - interval '5 minutes'"))
        (finding,) = doctor_words(connection)
    assert "1 texts are wanted for up to 5 min (budget)" in finding.says
    assert "DRIPFLEET_MODEL_BUDGET_DAY" in finding.next


class Calls:
    """A model that answers fixed words, and counts."""

    def __init__(self, slots: Mapping[str, str]) -> None:
        self.slots = slots
        self.asked = 0

    def ask(self, model: str, messages: Any, form: Any) -> Answer:
        self.asked += 1
        return Answer(json.dumps(dict(self.slots)), 100, 50, 0.0)


NAMED = {
    "subject": "We have not seen you, [first_name]",
    "opening": "We would be glad to see you again.",
}
FINE = {"subject": "We have not seen you", "opening": "We would be glad to see you again."}


def test_what_a_lost_worker_had_reserved_counts_as_spent_and_its_word_for_nothing(
    fleet: Words,
) -> None:
    fleet.people(1, ONE.replace("LEAD", "30m"))
    fleet.asker.ask()
    budgets = money.Budgets(10_000, 10_000)
    with fleet.database.transaction() as connection:
        (lost,) = store.claim(connection, 1, 0.1)
        held = money.reserve(connection, "worded", 400, budgets)
        assert held is not None
        store.reserved(connection, [(lost, 400, held.day)])
    model = Calls(FINE)
    settings = ModelSettings(url="http://unused", prices="variants=1/1")
    made = Writer(fleet.database, settings, model)
    eventually(lambda: made.work()["ready"] == 1)
    made.close()
    with fleet.database.transaction() as connection:
        store.end(connection, [store.End(lost, state="failed", why="checks")])
    assert one(fleet.database, "SELECT state FROM wording").state == "ready"
    spent = one(fleet.database, "SELECT reserved, settled FROM model_spend WHERE scope = 'all'")
    assert (spent.reserved, spent.settled) == (0, 400 + 150)


def test_words_yield_to_mails_that_wait_and_to_nobody_where_none_goes(fleet: Words) -> None:
    fleet.people(4, ONE.replace("LEAD", "30m"))
    assert fleet.asker.ask() == 4
    mails = seeds.sequence(
        fleet.database, seeds.ONE_MAIL.format(class_="marketing", template="test/mail")
    )
    ids = seeds.subscribers(fleet.database, 3, domain="example.org")
    seeds.enroll(fleet.database, mails, ids)
    fleet.scan()
    now, rests = [100.0], []

    def pause(seconds: float) -> None:
        rests.append(seconds)
        now[0] += seconds

    def pace(share: float = 0.1) -> Pace:
        settings = ModelSettings(yield_after=0.001, yield_share=share)
        return Pace(fleet.database, settings, lambda: now[0], pause)

    over = [False]
    slow = pace()
    assert slow.rest(lambda: over[0]) and not slow.yields, "no mail is under way: nobody sends"
    with fleet.database.transaction() as connection:
        claim(connection, stream="marketing", n=1, owner="w", lease=60)
    now[0] += 1
    assert slow.rest(lambda: over[0]) and slow.yields and slow.most(64) == 8
    assert rests == [], "nothing was done yet that a rest would follow"
    slow.worked(0.2)
    assert slow.rest(lambda: over[0])
    assert sum(rests) == pytest.approx(1.8), "two tenths of a second are a tenth of two seconds"
    slow.worked(50)
    over[0] = True
    assert not slow.rest(lambda: over[0]), "a doorbell that is over ends, and what it owes stays"
    always = pace(1)
    assert always.rest(lambda: True) and not always.yields
    with fleet.database.transaction() as connection:
        assert yielding(connection) is not None
        (finding,) = doctor_words(connection)
        asking = loads(ONE.replace("LEAD", "30m"), "x.yaml")
        there = at_hand(connection, [(n, asking) for n in range(20)])
    assert "words have been yielding to sends" in finding.says
    assert {each.reason for found in there.values() for each in found.values()} == {
        "yielded_to_sends"
    }
    with fleet.database.transaction() as connection:
        connection.execute(text("UPDATE word_yield SET seen_at = now() - interval '1 minute'"))
        assert yielding(connection) is None
    fleet.send()  # what is left of the mails: then none waits
    now[0] += 10
    assert slow.rest(lambda: True) and not slow.yields


def test_preparing_a_text_that_is_there_takes_milliseconds_and_no_call(fleet: Words) -> None:
    fleet.people(200, ONE.replace("LEAD", "30m"))
    model = Calls(FINE)
    made = Writer(fleet.database, ModelSettings(url="http://unused"), model)
    assert fleet.asker.ask(1) == 1
    made.work()
    began = time.perf_counter()
    assert fleet.asker.ask() == 199
    each = (time.perf_counter() - began) / 199
    made.close()
    assert model.asked == 1
    assert each < 0.005
    fleet.scan()
    assert sum(fleet.send().values()) == 400 and fleet.counts() == {"model": 200}


def _rows(database: Database, sql: str) -> list[Any]:
    with database.transaction() as connection:
        return list(connection.execute(text(sql)))
