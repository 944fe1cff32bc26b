"""Other systems hear what happened: signed, until they took it, and nobody is called inside a network."""

from __future__ import annotations

import asyncio
import datetime as dt
import hmac
import ipaddress
import json
import socket
import ssl
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr
from sqlalchemy import text

from models.session import Database
from tasks import base, names, webhook_work
from tasks.audience import one_event
from tasks.errors import Permanent
from tasks.moves.erase import erase
from tasks.moves.stop import stop_subscriber
from tasks.webhooks import book, engine, entry, store, target
from tasks.webhooks.engine import Answer
from tasks.webhooks.post import Post
from tasks.webhooks.settings import WebhookSettings
from tasks.webhooks.wire import Caller
from tests.live import seeds
from tests.live.fleet import Fleet
from tests.live.listener import Listener
from workers.cli import main
from workers.doctor import webhooks as doctor

KEY = b"an identity of the tests"


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def settings(**more: Any) -> WebhookSettings:
    inside: dict[str, Any] = {"webhook_networks": "127.0.0.0/8", "webhook_timeout": 2.0}
    return WebhookSettings(secret_address=SecretStr(KEY.decode()), **(inside | more))


def added(database: Database, url: str, *types: str, name: str = "crm", **more: Any) -> bytes:
    """Add an endpoint; its secret."""
    with database.transaction() as connection:
        shown = book.add(connection, name, url, key=KEY, types=types, plain=True, **more)
    assert shown.startswith("whsec_")
    return b64decode(shown.removeprefix("whsec_"))


def work(database: Database, **more: Any) -> dict[str, int]:
    return Post(database, settings(**more), draw=lambda: 0.5).work(3)


def run(database: Database, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        done = connection.execute(text(sql), values)
        return [tuple(row) for row in done] if done.returns_rows else []


def verified(secret: bytes, headers: dict[str, str], body: bytes) -> bool:
    said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    good = "v1," + b64encode(hmac.digest(secret, said, sha256)).decode()
    return good in headers["webhook-signature"].split(" ")


def test_what_happens_to_people_and_mails_is_told_signed_once_and_without_addresses(
    fleet: Fleet, listener: Listener
) -> None:
    database = fleet.database
    secret = added(database, listener.url)
    full = added(database, listener.url, "message.sent", name="archive", addresses=True)
    (one, two) = fleet.enrolled(2)
    run(database, "UPDATE subscriber SET external_id = 'crm-1' WHERE id = :id", id=one)
    fleet.send()
    fleet.scan()
    with database.transaction() as connection:
        assert webhook_work.to_deliver(connection)
        one_event.record_event(connection, one, "email.clicked", properties={"url": "https://a.b"})
        one_event.record_event(connection, one, "purchase", properties={"amount": 5})
        stop_subscriber(connection, two, "complaint")
        connection.execute(
            text("INSERT INTO suppression SELECT address_hmac, 'all', 'hard_bounce' FROM subscriber"
                 " WHERE id = :id"), {"id": two},
        )  # fmt: skip
    done = work(database)
    assert (done["again"], done["dead"]) == (0, 0)
    plain = [(h, b) for h, b in listener.told if verified(secret, h, b)]
    archive = [(h, b) for h, b in listener.told if verified(full, h, b)]
    assert len(plain) + len(archive) == len(listener.told) == done["delivered"]
    told = [json.loads(body) for _, body in plain]
    kinds = sorted(each["type"] for each in told)
    assert kinds == [
        "email.clicked", "enrollment.completed", "enrollment.completed", "enrollment.entered",
        "enrollment.entered", "message.sent", "message.sent", "subscriber.opted_in",
        "subscriber.opted_in", "subscriber.stopped", "subscriber.suppressed",
    ]  # fmt: skip
    by_kind = {
        each["type"]: each["data"] for each in told if each["data"]["subscriber"]["id"] == one
    }
    assert by_kind["email.clicked"]["properties"] == {"url": "https://a.b"}
    assert by_kind["message.sent"]["subscriber"] == {"id": one, "external_id": "crm-1"}
    assert by_kind["message.sent"]["sequence"] == "one-mail"
    assert by_kind["message.sent"]["code"] == 250
    assert not any(b"@" in body for _, body in plain)
    assert all(b"example.com" in body for _, body in archive) and len(archive) == 2
    # One thing has one id, whoever is told of it; each thing has its own.
    ids = [headers["webhook-id"] for headers, _ in plain]
    assert len(set(ids)) == len(ids)
    assert {headers["webhook-id"] for headers, _ in archive} < set(ids)
    assert work(database)["delivered"] == 0


def test_what_is_rolled_back_is_not_told_and_what_nobody_asked_for_is_not_written(
    database: Database, listener: Listener
) -> None:
    added(database, listener.url, "subscriber.stopped")
    (who,) = seeds.subscribers(database, 1)
    with pytest.raises(ZeroDivisionError), database.transaction() as connection:
        stop_subscriber(connection, who, "operator")
        raise ZeroDivisionError
    with database.transaction() as connection:
        one_event.record_event(connection, who, "email.opened")
    assert run(database, "SELECT count(*) FROM webhook_delivery") == [(0,)]


def test_a_failure_is_tried_again_later_under_the_same_id_until_it_is_a_dead_letter_and_replayed(
    database: Database, listener: Listener
) -> None:
    added(database, listener.url, "subscriber.stopped")
    (who,) = seeds.subscribers(database, 1)
    with database.transaction() as connection:
        stop_subscriber(connection, who, "operator")
    listener.answer = lambda body: (302, {"location": "http://127.0.0.1:1/elsewhere"})
    assert work(database)["again"] == 1
    ((status, wait),) = run(
        database,
        "SELECT status, extract(epoch FROM due_at - clock_timestamp())::float8 FROM webhook_delivery",
    )
    assert status == 302 and 5 < wait <= 10, "a redirect is a failure, and is not followed"
    assert work(database) == {"delivered": 0, "again": 0, "dead": 0, "gone": 0}, "not due"
    listener.answer = lambda body: (503, {"retry-after": "3600"})
    run(database, "UPDATE webhook_delivery SET due_at = clock_timestamp()")
    assert work(database)["again"] == 1
    assert run(
        database, "SELECT due_at > clock_timestamp() + interval '59 min' FROM webhook_delivery"
    ) == [(True,)]
    run(
        database,
        "UPDATE webhook_delivery SET due_at = clock_timestamp(), created_at = created_at - interval '4 days'",
    )
    assert work(database)["dead"] == 1
    with database.transaction() as connection:
        (letter,) = store.dead(connection, "crm")
        findings = list(doctor.endpoints(connection))
    assert (letter["status"], letter["attempts"]) == (503, 3)
    assert {each.severity for each in findings} == {"warning"}
    assert any("replay crm --dead" in each.next for each in findings)
    listener.answer = lambda body: (200, {})
    with database.transaction() as connection:
        assert store.replay(connection, "crm", dead=True) == 1
    assert work(database)["delivered"] == 1
    assert len({headers["webhook-id"] for headers, _ in listener.told}) == 1
    assert len(listener.told) == 4
    with database.transaction() as connection:
        assert store.prune(connection, 14) == 0
        connection.execute(
            text("UPDATE webhook_delivery SET delivered_at = delivered_at - interval '15 days'")
        )
        assert store.prune(connection, 14) == 1


def test_a_worker_that_died_is_taken_over_from_and_comes_too_late(
    database: Database, listener: Listener
) -> None:
    added(database, listener.url, "subscriber.stopped")
    (who,) = seeds.subscribers(database, 1)
    with database.transaction() as connection:
        stop_subscriber(connection, who, "operator")
    with database.transaction() as connection:
        (endpoint,) = store.ready(connection, KEY)
        (lost,) = store.claim(connection, endpoint, 10)
    with database.transaction() as connection:
        assert store.ready(connection, KEY) == []
    run(database, "UPDATE webhook_delivery SET due_at = clock_timestamp()")
    assert work(database)["delivered"] == 1
    with database.transaction() as connection:
        late = engine.judge(Answer(None, "closed"), 1, 0, 0.5, 1e6)
        told = [(lost, Answer(None, "closed"), late)]
        store.settle(connection, endpoint, told, rest=0, disable_after=1e9)
    assert run(database, "SELECT delivered_at IS NOT NULL FROM webhook_delivery") == [(True,)]


def test_who_fails_for_days_is_disabled_and_who_is_gone_at_once_and_both_come_back_by_hand(
    database: Database, listener: Listener
) -> None:
    added(database, listener.url, "subscriber.stopped")
    listener.answer = lambda body: (500, {})
    (one, two, three) = seeds.subscribers(database, 3)
    with database.transaction() as connection:
        stop_subscriber(connection, one, "operator")
    for failed in range(1, 7):
        work(database)
        ((failures, resting),) = run(
            database,
            "SELECT failures, coalesce(quiet_until > clock_timestamp(), false) FROM webhook_endpoint",
        )
        assert failures == failed and resting == (failed >= engine.LONE)
        run(database, "UPDATE webhook_delivery SET due_at = clock_timestamp()")
        run(database, "UPDATE webhook_endpoint SET quiet_until = NULL")
    # Left alone, it is asked one thing at a time.
    with database.transaction() as connection:
        stop_subscriber(connection, two, "operator")
        connection.execute(
            text("UPDATE webhook_endpoint SET failing_since = failing_since - interval '6 days'")
        )
    before = len(listener.told)
    work(database)
    assert len(listener.told) == before + 1
    with database.transaction() as connection:
        (finding,) = doctor.endpoints(connection)
    assert finding.severity == "error" and "nothing got through for 5 days" in finding.says
    with database.transaction() as connection:
        stop_subscriber(connection, three, "operator")
        assert book.listed(connection)[0]["waiting"] == 2, "nothing is kept for a disabled one"
        book.resume(connection, "crm")
    listener.answer = lambda body: (200, {})
    assert work(database)["delivered"] == 2
    with database.transaction() as connection:
        store.replay(connection, "crm", since=dt.timedelta(hours=1))
    listener.answer = lambda body: (410, {})
    assert work(database)["gone"] >= 1
    assert run(database, "SELECT disable_reason FROM webhook_endpoint") == [
        ("it answered 410: it is gone",)
    ]


def test_a_slow_one_holds_up_nobody_and_a_turned_secret_signs_beside_the_new_one(
    database: Database, listener: Listener
) -> None:
    slow, all_told = Listener(), threading.Event()

    def after_the_others(body: bytes) -> tuple[int, dict[str, str]]:
        return (200 if all_told.wait(5) else 500), {}

    def quick(body: bytes) -> tuple[int, dict[str, str]]:
        if len(listener.told) == 20:
            all_told.set()
        return 200, {}

    slow.answer, listener.answer = after_the_others, quick
    added(database, slow.url, "subscriber.stopped", name="a-slow-one")
    old = added(database, listener.url, "subscriber.stopped")
    with database.transaction() as connection:
        shown = book.rotate(connection, "crm", dt.timedelta(hours=1), key=KEY)
        with pytest.raises(Permanent, match="good yet"):
            book.rotate(connection, "crm", dt.timedelta(hours=1), key=KEY)
        for who in seeds.subscribers(database, 20):
            stop_subscriber(connection, who, "operator")
    assert work(database, webhook_timeout=10)["delivered"] == 40
    slow.close()
    new = b64decode(shown.removeprefix("whsec_"))
    assert all(verified(each, h, b) for each in (old, new) for h, b in listener.told)


def test_a_step_calls_the_endpoint_of_its_name_under_its_effect_key_and_an_erased_person_is_told_of_no_more(
    database: Database, listener: Listener
) -> None:
    (who,) = seeds.subscribers(database, 1)
    key = seeds.sequence(database, seeds.TWO_MAILS)
    seeds.enroll(database, key, [who])
    run(
        database,
        "INSERT INTO webhook_outbox (effect_key, target, payload, sequence_key, sequence_version, step_id,"
        " entry_no, enrollment_id, subscriber_id) SELECT 'k', 'crm', '{\"fields\"\\: {\"plan\"\\: \"pro\"}}',"
        " 'two-mails', 1, 'tell', 1, id, subscriber_id FROM enrollment",
    )
    with database.transaction() as connection:
        assert not webhook_work.to_deliver(connection)
    added(database, listener.url, "subscriber.*")
    assert work(database)["delivered"] == 1
    (body,) = listener.bodies()
    assert body["type"] == "step.called" and body["data"]["fields"] == {"plan": "pro"}
    assert listener.told[0][0]["webhook-id"] == f"call_{b'k'.hex()}"
    assert work(database)["delivered"] == 0
    with database.transaction() as connection:
        erase(connection, who, "person1@example.com", None)
    work(database)
    assert [each["type"] for each in listener.bodies()[1:]] == ["subscriber.erased"]
    assert listener.bodies()[1]["data"] == {"subscriber": {"id": who, "external_id": None}}
    assert run(database, "SELECT type FROM webhook_delivery") == [("subscriber.erased",)]


def test_a_doorbell_tells_what_is_due_by_one_thread_of_a_worker(
    database: Database, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_SECRET_ADDRESS", KEY.decode())
    monkeypatch.setenv("DRIPFLEET_WEBHOOK_NETWORKS", "127.0.0.0/8")
    entry.settings.cache_clear()
    base.configure(database, "upkeep")
    secret = added(database, listener.url, "subscriber.stopped")
    (who,) = seeds.subscribers(database, 1)
    with database.transaction() as connection:
        stop_subscriber(connection, who, "operator")
    with entry._alone:
        assert entry.deliver(v=names.VERSION) == {}
    assert entry.deliver(v=names.VERSION)["delivered"] == 1
    assert verified(secret, *listener.told[0])
    assert names.QUEUE_OF[names.WEBHOOKS] == "webhooks", "never before what brings mails back"


def test_an_operator_tries_an_endpoint_and_is_told_what_it_answers(
    database: Database,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    monkeypatch.setenv("DRIPFLEET_SECRET_ADDRESS", KEY.decode())
    assert main(["webhooks", "add", "crm", listener.url]) == 1
    assert "is not https" in capsys.readouterr().err
    monkeypatch.setenv("DRIPFLEET_WEBHOOK_NETWORKS", "127.0.0.0/8")
    assert main(["webhooks", "add", "crm", listener.url, "--type", "message.sent"]) == 0
    secret = b64decode(capsys.readouterr().out.strip().removeprefix("whsec_"))
    assert main(["webhooks", "test", "crm"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == 204
    ((headers, body),) = listener.told
    assert verified(secret, headers, body) and json.loads(body)["type"] == "test.ping"
    listener.answer = lambda body: (404, {})
    assert main(["webhooks", "test", "crm"]) == 1
    assert "status 404, and 2xx was expected" in capsys.readouterr().err
    assert main(["webhooks", "replay", "crm"]) == 2
    assert main(["webhooks", "pause", "nobody", "--reason", "x"]) == 1
    assert "`dripfleet webhooks list` shows which there are" in capsys.readouterr().err


def certificate(folder: Path, host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for `host`, and one that trusts it alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "cert.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=pem)


def test_the_name_is_looked_up_once_and_tls_and_host_speak_of_it_though_the_address_is_pinned(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, trust = certificate(tmp_path, "hooks.example")
    named: list[str | None] = []
    server.sni_callback = lambda sock, name, context: named.append(name)
    listener.server.socket = server.wrap_socket(listener.server.socket, server_side=True)
    asked: list[str] = []
    answers: list[list[str]] = []

    async def look_up(self: Any, host: str, port: int, **more: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in answers.pop(0)]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", look_up)

    async def call(
        *found: list[str], host: str = "hooks.example", own: str = "127.0.0.0/8"
    ) -> Answer:
        answers[:], asked[:] = [*found], []
        goes = target.parse(f"https://{host}:{listener.port}/in")
        async with Caller([ipaddress.ip_network(own)], 2, trust) as caller:
            return await caller.call(goes, {}, b"{}")

    # A second answer of the name server would be another one; nobody asks for it.
    assert asyncio.run(call(["127.0.0.1"], ["169.254.169.254"])).status == 204
    assert asked == ["hooks.example"] and named == ["hooks.example"]
    assert listener.told[0][0]["host"] == f"hooks.example:{listener.port}"
    # A certificate of somebody else is none, and no address of a network that nobody named is called.
    wrong = asyncio.run(call(["127.0.0.1"], host="other.example"))
    assert wrong.status is None and "certificate" in str(wrong.fault)
    refused = asyncio.run(call(["127.0.0.1"], own="10.0.0.0/8"))
    assert refused == Answer(None, "hooks.example leads to 127.0.0.1, which is not public")
    refused = asyncio.run(call(["93.184.215.14", "10.0.0.1"]))
    assert refused.fault == "hooks.example leads to 10.0.0.1, which is not public"
    assert len(listener.told) == 1
