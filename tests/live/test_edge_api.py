"""What other systems write through `/v1`: by the ways of the command line, once, and by key alone."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from random import random
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from models.session import Database
from tasks.audience import api_key
from tasks.errors import Permanent
from tasks.moves.settings import DeliverySettings
from tasks.moves.stop import stop_subscriber
from tasks.send.render import Bundle
from tasks.upkeep.verify import VerifySettings, verify
from tests.live import edge, seeds
from tests.live.fleet import Fleet
from workers.edge import answers

ALL = api_key.SCOPES
ZOE = {
    "email": "Zoe@Example.com", "external_id": "crm-1", "first_name": "Zoë", "locale": "de_at",
    "zone": "Europe/Vienna", "attributes": {"orders": 3, "vip": True}, "topics": {"news": True},
}  # fmt: skip
BOUGHT = {
    "external_id": "crm-1",
    "name": "purchase",
    "source_id": "81",
    "properties": {"amount": 5},
}


@pytest.fixture
def api(database: Database) -> Iterator[TestClient]:
    with edge.client(database, edge_rate="1000/minute") as client:
        client.headers["Authorization"] = f"Bearer {made(database)}"
        yield client


def made(database: Database, *scopes: str, **more: Any) -> str:
    with database.transaction() as connection:
        return api_key.create(connection, "shop", scopes or ALL, **more)


def rows(database: Database, sql: str) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def test_people_events_and_entries_come_in_as_from_files(
    database: Database, api: TestClient
) -> None:
    people = {"subscribers": [ZOE, {"email": "no"}, {"email": "a@example.com", "x": 1}]}
    told = api.post("/v1/subscribers", json=people).json()
    assert (told["new"], told["consents"]) == (1, 1)
    assert [each["index"] for each in told["refused"]] == [1, 2]
    assert "there is no field 'x'" in told["refused"][1]["reason"]
    again = api.post("/v1/subscribers", json={"subscribers": [{**ZOE, "first_name": "Z"}]}).json()
    assert (again["new"], again["updated"]) == (0, 1)
    (who,) = rows(database, "SELECT address, first_name, locale, zone, attributes FROM subscriber")
    assert who == ("Zoe@example.com", "Z", "de-AT", "Europe/Vienna", {"orders": 3, "vip": True})
    assert rows(database, "SELECT topic, opted_in, source FROM consent") == [
        ("news", True, "import:api shop")
    ]
    # An external id is one person's; another one's is told by its place.
    other = [{"email": "max@example.com", "external_id": "crm-1"}, {"email": "eve@example.com"}]
    told = api.post("/v1/subscribers", json={"subscribers": other}).json()
    assert told["new"] == 1 and told["refused"][0]["index"] == 0

    sent = {"source": "shop", "events": [BOUGHT, BOUGHT, {**BOUGHT, "external_id": "nobody"}]}
    assert api.post("/v1/events", json=sent).json() == {"new": 1, "known": 2, "refused": 0}
    stranger = {**BOUGHT, "external_id": "nobody", "source_id": "82"}
    told = api.post("/v1/events", json={"source": "shop", "events": [stranger]}).json()
    assert told == {"new": 0, "known": 0, "refused": 1}
    assert rows(database, "SELECT name, properties FROM event") == [("purchase", {"amount": 5})]
    assert rows(database, "SELECT count(*) FROM event_refused") == [(1,)]

    seeds.sequence(database, seeds.TWO_MAILS)
    asked = {"sequence": "two-mails", "emails": ["ZOE@example.com", "x"], "external_ids": ["crm-9"]}
    told = api.post("/v1/enrollments", json=asked).json()
    assert (told["enrolled"], told["unknown"]) == (1, 2)
    told = api.post("/v1/enrollments", json=asked).json()
    assert (told["enrolled"], told["already_enrolled"]) == (0, 1)
    nowhere = api.post("/v1/enrollments", json={"sequence": "nope", "emails": ["a@example.com"]})
    assert nowhere.status_code == 422 and "no sequence 'nope'" in nowhere.json()["detail"]


def test_a_request_that_comes_twice_is_answered_as_before_and_its_key_is_no_others(
    database: Database, api: TestClient
) -> None:
    api.post("/v1/subscribers", json={"subscribers": [ZOE]})
    key = {"Idempotency-Key": "a-1"}
    body = {"source": "shop", "events": [BOUGHT]}
    first = api.post("/v1/events", json=body, headers=key)
    again = api.post("/v1/events", json=body, headers=key)
    assert first.json() == again.json() == {"new": 1, "known": 0, "refused": 0}
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = api.post("/v1/events", json={**body, "source": "till"}, headers=key)
    assert other.status_code == 422 and "another request's" in other.json()["detail"]
    # Of another caller it is another key.
    told = api.post(
        "/v1/events", json=body, headers={**key, "Authorization": f"Bearer {made(database)}"}
    )
    assert told.json() == {"new": 0, "known": 1, "refused": 0}
    assert api.post("/v1/events", json=body, headers={"Idempotency-Key": ""}).status_code == 400


def test_the_same_request_at_the_same_time_waits_and_an_abandoned_one_is_worked_on_again(
    database: Database,
) -> None:
    key = made(database)[3:11]
    begun, go = threading.Event(), threading.Event()

    def slow() -> dict[str, Any]:
        begun.set()
        assert go.wait(10)
        return {"n": 1}

    found: list[answers.Answer] = []
    worker = threading.Thread(
        target=lambda: found.append(answers.once(database, key, "k", "r", slow))
    )
    worker.start()
    assert begun.wait(10)
    with pytest.raises(Exception, match="is being worked on"):
        answers.once(database, key, "k", "r", slow)
    go.set()
    worker.join(10)
    assert found == [answers.Answer({"n": 1})]
    assert answers.once(database, key, "k", "r", slow) == answers.Answer({"n": 1}, again=True)

    def fails() -> dict[str, Any]:
        raise Permanent("no")

    with pytest.raises(Permanent):
        answers.once(database, key, "k2", "r", fails)
    assert answers.once(database, key, "k2", "r", lambda: {"n": 2}).content == {"n": 2}
    with database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE api_answer SET status = NULL, answer = NULL, at = now() - interval '2 min'"
            )
        )
    assert answers.once(database, key, "k", "r", lambda: {"n": 3}).content == {"n": 3}


def test_a_key_does_what_its_scopes_say_for_as_long_as_it_is_good(
    database: Database, api: TestClient
) -> None:
    body = {"source": "shop", "events": [BOUGHT]}

    def asked(key: str | None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {key}" if key else ""}
        answer = api.post("/v1/events", json=body, headers=headers)
        assert answer.headers["content-type"].startswith("application/") and key not in (
            answer.text,
        )
        return answer.status_code, answer.json().get("detail", "")

    good = made(database, "events")
    assert asked(good)[0] == 200
    assert asked(None)[0] == asked("df_x")[0] == asked(good[:-1] + "!")[0] == 401
    assert asked(good[:12] + "A" * 43)[0] == 401
    status, why = asked(made(database, "subscribers"))
    assert status == 403 and "--scope events" in why
    assert asked(made(database, "events", life=dt.timedelta(0)))[0] == 401
    with database.transaction() as connection:
        new = api_key.rotate(connection, good[3:11], dt.timedelta(hours=1))
    assert asked(good)[0] == asked(new)[0] == 200
    with database.transaction() as connection:
        assert api_key.revoke(connection, good[3:11])
        assert not api_key.revoke(connection, good[3:11])
        with pytest.raises(Permanent, match="is revoked"):
            api_key.rotate(connection, good[3:11], dt.timedelta(0))
        with pytest.raises(Permanent, match="no scope 'mails'"):
            api_key.create(connection, "x", ["mails"])
    assert asked(good)[0] == 401 and asked(new)[0] == 200
    kept = str(rows(database, "SELECT * FROM api_key"))
    assert good[12:] not in kept and new[12:] not in kept


def test_a_caller_that_runs_wild_waits_no_other_does_and_without_redis_nobody_is_counted(
    database: Database, valkey_url: str
) -> None:
    body = {"source": "shop", "events": [BOUGHT]}

    def asked(redis_url: str, rate: str, callers: list[int]) -> list[tuple[int, str]]:
        keys = {each: {"Authorization": f"Bearer {made(database)}"} for each in callers}
        with edge.client(database, redis_url, edge_rate=rate) as client:
            said = [client.post("/v1/events", json=body, headers=keys[who]) for who in callers]
            return [(each.status_code, each.headers.get("Retry-After", "")) for each in said]

    said = asked(valkey_url, "5/minute", [1] * 6 + [2])
    assert [status for status, _ in said] == [200] * 5 + [429, 200]
    assert int(said[5][1]) >= 1
    nowhere = "redis://127.0.0.1:1/0"
    assert {status for status, _ in asked(nowhere, "1/minute", [1] * 3)} == {200}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
PERSON = st.fixed_dictionaries(
    {"email": st.sampled_from(["a@example.com", "b@example.com", "\x00@x.de"]) | JSON},
    optional={
        "external_id": JSON, "first_name": JSON, "locale": JSON, "zone": JSON,
        "attributes": JSON | st.dictionaries(st.text(max_size=5), JSON, max_size=3),
        "topics": JSON | st.dictionaries(st.text(max_size=5), st.booleans(), max_size=3),
    },
)  # fmt: skip
EVENT = st.fixed_dictionaries(
    {"name": JSON, "source_id": JSON}, optional={"email": JSON, "properties": JSON, "occurred_at": JSON}
)  # fmt: skip
BODIES = st.one_of(
    st.tuples(st.just("/v1/subscribers"), st.fixed_dictionaries({"subscribers": st.lists(PERSON)})),
    st.tuples(
        st.just("/v1/events"),
        st.fixed_dictionaries({"source": st.text(max_size=5), "events": st.lists(EVENT)}),
    ),
    st.tuples(
        st.just("/v1/enrollments"),
        st.fixed_dictionaries({"sequence": st.text(max_size=5), "emails": st.lists(st.text())}),
    ),
    st.tuples(
        st.just("/v1/messages"),
        st.fixed_dictionaries({"template": JSON, "to": st.text() | JSON, "data": JSON}),
    ),
    st.tuples(st.sampled_from(["/v1/subscribers", "/v1/events", "/v1/enrollments"]), JSON),
)


def test_no_body_whatever_is_a_fault_of_ours(database: Database, api: TestClient) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(BODIES)
    def send(asked: tuple[str, Any]) -> None:
        path, body = asked
        answer = api.post(
            path,
            content=json.dumps(body),
            headers={"content-type": "application/json", "Idempotency-Key": str(random())},
        )
        assert answer.status_code < 500, answer.text

    send()
    as_json = {"content-type": "application/json"}
    assert api.post("/v1/events", content=b"\xff{", headers=as_json).status_code == 400
    assert api.post("/v1/events", content=b"x" * 2_000_001).status_code == 413
    schema = api.get("/openapi.json").json()
    assert set(schema["paths"]) >= {
        "/v1/events",
        "/v1/subscribers",
        "/v1/enrollments",
        "/u/{token}",
        "/c/{token}",
    }


RECEIPT = Bundle(
    "receipt/mail",
    {"subject.txt": "Order {{ event.order }}", "body.txt": "Paid: {{ event.total }}. Hi."},
)


def test_a_receipt_is_sent_once_however_often_it_is_asked_for_and_a_stop_stops_it(
    fleet: Fleet,
) -> None:
    seeds.template(fleet.database, RECEIPT)
    asked = {
        "template": "receipt/mail", "to": "New@example.com", "data": {"order": "81", "total": "5 €"},
    }  # fmt: skip
    with edge.client(fleet.database) as api:
        api.headers["Authorization"] = f"Bearer {made(fleet.database, 'messages')}"

        def ask(key: str, **more: object) -> Any:
            return api.post("/v1/messages", json=asked | more, headers={"Idempotency-Key": key})

        first, again = ask("r-81"), ask("r-81")
        assert first.status_code == again.status_code == 202 and first.json() == again.json()
        assert first.json()["state"] == "scheduled"
        fleet.send("transactional")
        assert ask("r-81").json()["state"] == "sent"
        (mail,) = edge.mails(fleet)
        assert mail["Subject"] == "Order 81" and mail["To"] == "New@example.com"
        assert mail["List-Unsubscribe-Post"] is None
        how = api.get("/v1/messages", headers={"Idempotency-Key": "r-81"}).json()
        assert how["state"] == "sent" and how["terminal_at"]
        nothing = api.get("/v1/messages", headers={"Idempotency-Key": "r-82"})
        assert nothing.status_code == 404
        with fleet.database.transaction() as connection:
            stop_subscriber(connection, seeds_id(connection), "operator")
        ask("r-83")
        fleet.send("transactional")
        assert ask("r-83").json()["state"] == "suppressed" and len(edge.mails(fleet)) == 1
        for wrong, why in (
            ({"template": "no/mail"}, "no template 'no/mail' is published"),
            ({"to": "nobody"}, "to: the address has no @"),
            ({"data": {"x": "\x00"}}, "data holds something that is not text"),
            ({"data": {"x": "y" * 60_000}}, "data is longer than"),
        ):
            answer = ask("r-84", **wrong)
            assert answer.status_code == 422 and why in answer.json()["detail"]
        assert api.post("/v1/messages", json=asked).status_code == 422, "without a key"
    assert verify(fleet.database, DeliverySettings(), VerifySettings()).clean


def seeds_id(connection: Connection) -> int:
    return int(connection.execute(text("SELECT id FROM subscriber")).scalar_one())
