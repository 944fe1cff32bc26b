"""Events from producers: each recorded once, or kept with the reason, whatever goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Reject
from sqlalchemy import text

from models.session import Database
from tasks import base, names
from tasks.audience import entry, track
from tasks.audience.address import address_hmac
from tasks.audience.store import check_secret
from workers.celery import build
from workers.cli import main
from workers.cli.render import ExitCode
from workers.doctor import standing
from workers.settings import RedisSettings

SECRET = "a secret of the tests"
ZOE = {"email": "Zoe@example.com", "name": "purchase", "source_id": "1"}


@pytest.fixture
def shop(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    monkeypatch.setenv("DRIPFLEET_SECRET_ADDRESS", SECRET)
    monkeypatch.setattr(base, "_database", database)
    entry.secret.cache_clear()
    with database.transaction() as connection:
        check_secret(connection, SECRET.encode())
    subscriber(database, "zoe@example.com", "crm-1")
    yield database
    entry.secret.cache_clear()


@pytest.fixture
def app() -> Iterator[Celery]:
    made = build("upkeep", RedisSettings(redis_url="redis://127.0.0.1:1/0"))
    yield made
    made.close()


def subscriber(database: Database, address: str, external_id: str) -> None:
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO subscriber (address, address_hmac, external_id)"
                " VALUES (:address, :hmac, :external_id)"
            ),
            {
                "address": address,
                "hmac": address_hmac(SECRET.encode(), address),
                "external_id": external_id,
            },
        )


def send(**payload: Any) -> Any:
    """What the worker does with a task, once it came through the broker as JSON."""
    return entry.record.apply(kwargs=json.loads(json.dumps(payload))).result


def events(database: Database) -> list[Any]:
    with database.transaction() as connection:
        return [
            tuple(each)
            for each in connection.execute(text("SELECT name, properties FROM event ORDER BY id"))
        ]


def refused(database: Database) -> list[str]:
    with database.transaction() as connection:
        return [each["reason"] for each in track.refused(connection, 100)]


def test_events_are_recorded_once_however_often_they_are_sent(shop: Database, app: Celery) -> None:
    more = {
        "external_id": "crm-1", "name": "login", "source_id": 2,
        "occurred_at": "2026-02-28T14:30:00+01:00", "properties": {"a": [1, None, {"b": "é"}]},
    }  # fmt: skip
    payload = {"v": 1, "source": "shop", "events": [ZOE, more, ZOE]}
    assert send(**payload) == {"new": 2, "known": 1, "refused": 0}
    assert send(**payload) == {"new": 0, "known": 3, "refused": 0}
    assert send(**payload | {"source": "other", "events": [ZOE]})["new"] == 1
    assert events(shop) == [("purchase", {}), ("login", more["properties"]), ("purchase", {})]


ODD = [
    (ZOE | {"email": "li@example.com"}, "no subscriber has this email"),
    (ZOE | {"email": "li"}, "has no @"),
    (ZOE | {"name": ""}, "name is empty"),
    (ZOE | {"name": "x" * 201}, "longer than 200"),
    (ZOE | {"source_id": None}, "source_id is empty"),
    (ZOE | {"source_id": True}, "neither text nor a whole number"),
    (ZOE | {"occurred_at": "soon"}, "is no date"),
    (ZOE | {"when": "now"}, "has a key 'when'"),
    (ZOE | {"properties": [1]}, "no object"),
    (ZOE | {"properties": {"a": "\x00"}}, "not text"),
    (ZOE | {"properties": {"a": "\ud800"}}, "not text"),
    (ZOE | {"properties": {"a": float("nan")}}, "NaN"),
    (ZOE | {"properties": {"a": "x" * 100_001}}, "longer than 100000"),
    ("zoe", "no object"),
]


def test_what_is_no_event_is_kept_with_the_reason_and_the_others_go_on(
    shop: Database, app: Celery
) -> None:
    sound = ZOE | {"source_id": "ok", "properties": {"literally": "\\u0000"}}
    for turn in range(2):  # redelivered, each is kept once
        told = send(v=1, source="shop", events=[*(event for event, _ in ODD), sound])
        assert told == {"new": 1 - turn, "known": turn, "refused": len(ODD)}
    said = refused(shop)
    assert len(said) == len(ODD)
    for _, words in ODD:
        assert any(words in reason for reason in said), words
    assert len(events(shop)) == 1
    with shop.transaction() as connection:
        found = list(standing.refused_events(connection))
    assert len(found) == 5 and {each.severity for each in found} == {"warning"}


def test_a_payload_that_nobody_understands_is_kept_too(shop: Database, app: Celery) -> None:
    odd: list[dict[str, Any]] = [
        {"v": 1, "events": [ZOE]}, {"v": 1, "source": "shop", "events": []},
        {"v": 1, "source": "shop", "events": [ZOE] * 1001}, {"v": 1, "source": "shop"},
        {"v": 1, "source": "shop", "events": [ZOE], "more": 1}, {"v": 2, "all": "new"},
        {"v": 1, "source": "\x00", "events": float("inf")},
    ]  # fmt: skip
    for payload in odd:
        assert send(**payload) == {"new": 0, "known": 0, "refused": 1}
    assert len(refused(shop)) == len(odd) and events(shop) == []


def test_what_cannot_be_written_now_goes_back_to_the_broker(
    shop: Database, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "PUT_BACK_AFTER", 0.0)
    gone = Database("postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(base, "_database", gone)
    with pytest.raises(Reject) as caught:
        entry.record(v=1, source="shop", events=[ZOE])
    assert caught.value.requeue  # type: ignore[attr-defined]
    gone.close()
    monkeypatch.setattr(base, "_database", shop)
    monkeypatch.delenv("DRIPFLEET_SECRET_ADDRESS")
    with pytest.raises(Reject, match="Misconfigured"):
        entry.record(v=1, source="shop", events=[ZOE])


def test_a_refused_event_is_recorded_once_its_subscriber_is_there(
    shop: Database, app: Celery, capsys: pytest.CaptureFixture[str]
) -> None:
    send(v=1, source="shop", events=[ZOE | {"email": "li@example.com"}, ZOE | {"name": ""}])
    subscriber(shop, "li@example.com", "crm-2")
    capsys.readouterr()
    assert main(["events", "refused"]) == ExitCode.OK
    assert [each["source"] for each in json.loads(capsys.readouterr().out)] == ["shop", "shop"]
    assert main(["events", "refused", "--retry"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {"new": 1, "known": 0, "refused": 1}
    assert len(events(shop)) == 1 and refused(shop) == ["name is empty"]
    assert main(["events", "refused", "--drop"]) == ExitCode.OK
    assert refused(shop) == []


def test_producers_have_a_queue_of_their_own(app: Celery) -> None:
    assert names.QUEUE_OF[names.TRACK] == "track"
    assert {queue.name for queue in app.conf.task_queues} >= {"track", "segments"}
