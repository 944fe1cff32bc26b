"""What `/v1` lists: in pages that inserts do not move, to whom a scope permits it, and nothing forged."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from models.session import Database
from tasks.audience import api_key, one_event
from tasks.moves.erase import erase
from tasks.moves.stop import stop_subscriber
from tasks.send.tokens import Purpose, read, sign
from tests.live import edge, seeds
from tests.live.fleet import SECRET, Fleet
from workers.edge.settings import EdgeSettings


@pytest.fixture
def reader(database: Database) -> Iterator[TestClient]:
    with edge.client(database, edge_rate="100000/minute") as client:
        client.headers["Authorization"] = f"Bearer {key(database, *api_key.READ)}"
        yield client


def key(database: Database, *scopes: str) -> str:
    with database.transaction() as connection:
        return api_key.create(connection, "reports", scopes)


def pages(client: TestClient, path: str, **asked: Any) -> Iterator[list[dict[str, Any]]]:
    cursor = None
    while True:
        answer = client.get(path, params={**asked, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        yield found["data"]
        cursor = found["next"]
        if cursor is None:
            return


def test_pages_hold_each_row_once_newest_first_whatever_is_inserted_meanwhile(
    database: Database, reader: TestClient
) -> None:
    ids = seeds.subscribers(database, 7)
    seen: list[int] = []
    for number, rows in enumerate(pages(reader, "/v1/subscribers", limit=3)):
        seeds.subscribers(database, 2, domain=f"later{number}.example")
        seen += [row["id"] for row in rows]
    assert seen == sorted(ids, reverse=True)
    first = reader.get("/v1/subscribers", params={"limit": 3}).json()
    assert first["data"][0]["address"].endswith("@later2.example")
    assert len({row["id"] for rows in pages(reader, "/v1/subscribers") for row in rows}) == 13


def test_mails_ways_and_events_are_listed_with_filters_and_erased_people_are_gone(
    fleet: Fleet,
) -> None:
    (one, two) = fleet.enrolled(2)
    fleet.send()
    with fleet.database.transaction() as connection:
        one_event.record_event(connection, one, "purchase", properties={"amount": 5})
        one_event.record_event(connection, two, "visit")
        stop_subscriber(connection, two, "operator")
    with edge.client(fleet.database) as reader:
        reader.headers["Authorization"] = f"Bearer {key(fleet.database, *api_key.READ)}"

        def found(path: str, **asked: Any) -> list[dict[str, Any]]:
            return [row for rows in pages(reader, f"/v1/{path}", **asked) for row in rows]

        (mail,) = found("messages", subscriber=one, state="sent", sequence="one-mail")
        assert (mail["step"], mail["code"], mail["state"]) == ("mail", 250, "sent")
        assert found("messages", state="failed") == []
        (way,) = found("enrollments", subscriber=one, active=True)
        assert (way["sequence"], way["entry"], way["subscriber"]) == ("one-mail", 1, one)
        assert [row["end_reason"] for row in found("enrollments", active=False)] == ["operator"]
        (event,) = found("events", name="purchase")
        assert (event["subscriber"], event["properties"]) == (one, {"amount": 5})
        assert [row["id"] for row in found("subscribers", status="stopped")] == [two]
        assert found("subscribers", external_id="nobody") == []
        with fleet.database.transaction() as connection:
            erase(connection, two, "person2@example.com", None)
        assert [row["id"] for row in found("subscribers")] == [one]
        assert "person2" not in str(found("events")) + str(found("messages"))


def test_a_cursor_is_of_one_list_and_its_filters_and_a_forged_one_is_none(
    database: Database, reader: TestClient
) -> None:
    seeds.subscribers(database, 3)
    cursor = reader.get("/v1/subscribers", params={"limit": 1}).json()["next"]
    assert reader.get("/v1/subscribers", params={"cursor": cursor}).status_code == 200
    for path, asked in (
        ("/v1/messages", {"cursor": cursor}),
        ("/v1/subscribers", {"cursor": cursor, "status": "stopped"}),
        ("/v1/subscribers", {"cursor": cursor[:-1] + ("A" if cursor[-1] != "A" else "B")}),
        ("/v1/subscribers", {"cursor": "x"}),
        ("/v1/subscribers", {"cursor": "é"}),
        ("/v1/subscribers", {"cursor": ""}),
    ):
        answer = reader.get(path, params=asked)
        assert answer.status_code == 400, (path, asked)
        assert "take `next` of the page before" in answer.json()["detail"]
    for odd in ({"limit": 0}, {"limit": 501}, {"status": "x"}, {"external_id": "a\x00"}):
        assert reader.get("/v1/subscribers", params=odd).status_code == 422
    for odd in ({"subscriber": 0}, {"subscriber": 2**63}, {"state": "lost"}):
        assert reader.get("/v1/messages", params=odd).status_code == 422


def test_who_may_write_may_not_read_and_a_scope_reads_its_own_list_alone(
    database: Database,
) -> None:
    with edge.client(database) as client:
        for scope in api_key.SCOPES:
            headers = {"Authorization": f"Bearer {key(database, scope)}"}
            may = {
                name
                for name in api_key.WRITE
                if client.get(f"/v1/{name}", headers=headers).status_code == 200
            }
            assert may == ({scope.removesuffix(":read")} if scope.endswith(":read") else set())
        nobody = client.get("/v1/events", headers={"Authorization": "Bearer x"})
        assert nobody.status_code == 401
        writer = {"Authorization": f"Bearer {key(database, 'events')}"}
        said = client.get("/v1/events", headers=writer).json()["detail"]
        assert "has no scope events:read" in said and "--scope events:read" in said


def test_ten_thousand_forged_tokens_open_nothing(database: Database) -> None:
    """Good ones with one character changed, cut, lengthened, of another purpose or another key."""
    (who,) = seeds.subscribers(database, 1)
    seeds.enroll(database, seeds.sequence(database, seeds.TWO_MAILS), [who])
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO message (effect_key, rfc_message_id, stream, subscriber_id, template, run_at)"
                " VALUES ('k', 'm', 'marketing', :who, 'test/mail', now())"
            ),
            {"who": who},
        )
        connection.execute(
            text("INSERT INTO link (sha256, url) VALUES ('h', 'https://shop.example/a')")
        )
        before = state(connection)
    keys = EdgeSettings(secret_token=SECRET).keys
    random, alphabet = Random(11), "abcXYZ019-_.!é/%"
    paths: dict[Purpose, str] = {"unsubscribe": "/u/", "click": "/c/", "open": "/o/"}
    good: dict[Purpose, str] = {
        "unsubscribe": sign(keys, "unsubscribe", 1),
        "click": sign(keys, "click", 1, 1),
        "open": sign(keys, "open", 1),
    }

    def forged(token: str) -> str:
        at = random.randrange(len(token))
        match random.randrange(4):
            case 0:
                return token[:at] + random.choice(alphabet) + token[at + 1 :]
            case 1:
                return token[:at]
            case 2:
                return token + random.choice(alphabet)
            case _:
                return "".join(random.choices(alphabet, k=random.randrange(1, 60)))

    tokens = [
        token
        for token in (forged(good[random.choice([*good])]) for _ in range(11_000))
        if token not in good.values()
    ][:10_000]
    assert len(tokens) == 10_000
    for token in tokens:
        assert not any(read(keys, purpose, token) for purpose in good), token
    # Of another purpose they open nothing either; the edge is asked by some of all.
    shown = [t for t in tokens if t and not {*t} & {"/"} and t not in (".", "..")]
    with edge.client(database) as client:
        for token in (*shown[::120], *good.values()):
            for purpose, path in paths.items():
                if token == good[purpose]:
                    continue
                answer = client.get(path + token)
                assert "location" not in answer.headers
                assert (
                    answer.status_code == 200 if path == "/o/" else answer.status_code in (200, 404)
                )
            if token != good["unsubscribe"]:
                assert client.post(f"/u/{token}").status_code in (200, 404)
    with database.transaction() as connection:
        assert state(connection) == before


def state(connection: Any) -> list[Any]:
    return [
        connection.execute(text(f"SELECT coalesce(json_agg(t)::text, '') FROM {table} t")).scalar()
        for table in (
            "subscriber",
            "consent",
            "suppression",
            "message",
            "hit",
            "snooze",
            "event",
            "decision",
        )
    ]
