"""Confirmed opt-in: a sign-up is a question until its reader says yes, and the record says how it came."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from models.session import Database
from tasks.audience import api_key
from tasks.audience.address import address_hmac
from tasks.audience.given import bring
from tasks.audience.personal_data import export
from tasks.audience.store import dossier, get
from tasks.errors import Permanent
from tasks.moves import opt_in, withdraw
from tasks.moves.erase import erase
from tasks.moves.opt_in import Asker
from tasks.moves.settings import DeliverySettings, IdentitySettings
from tasks.send.render import Bundle, bundle_from_folder
from tasks.sequence.enroll import enroll_identities
from tasks.sequence.publish import publish_mail
from tests.live import edge, seeds
from tests.live.fleet import SECRET, Fleet
from workers.cli import main
from workers.cli.proof import installed_templates
from workers.doctor.sign_ups import sign_ups

WHO = "zoe@example.com"
ONE = seeds.ONE_MAIL.format(class_="marketing", template="test/mail")
ZOE = {"email": WHO, "first_name": "Win now!", "locale": "de-AT", "topics": {"news": True}}


@pytest.fixture(autouse=True)
def _base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIPFLEET_EDGE_URL", edge.BASE)


@pytest.fixture
def browser(database: Database) -> Iterator[TestClient]:
    with edge.client(database, edge_rate="1000/minute") as client:
        yield client


@pytest.fixture
def asks(_base: None, fleet: Fleet) -> Fleet:
    """A fleet with a sequence on the topic `news`, which asks for a confirmation."""
    seeds.sequence(fleet.database, ONE)
    with fleet.database.transaction() as connection:
        publish_mail(connection, bundle_from_folder(installed_templates(), opt_in.TEMPLATE))
        assert opt_in.demand(connection, "news", True)
    return fleet


def asker() -> Asker:
    return Asker.of(IdentitySettings(secret_message_id=SECRET), DeliverySettings())


def sign_up(fleet: Fleet, **more: Any) -> int:
    who = {**ZOE, **more}
    return bring(fleet.database, [who], secret=edge.IDENTITIES, source="api shop").pending


def row(fleet: Fleet, sql: str) -> tuple[Any, ...]:
    return tuple(fleet.one(sql))


def link_of(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    found = re.search(rf"{re.escape(edge.BASE)}(/confirm/\S+)", body.get_content())
    assert found is not None
    return found[1]


def test_nothing_of_a_topic_goes_until_its_reader_says_yes_and_then_it_does(
    asks: Fleet, browser: TestClient
) -> None:
    with asks.database.transaction() as connection:
        made = api_key.create(connection, "shop", ["subscribers"])
    told = browser.post(
        "/v1/subscribers", json={"subscribers": [ZOE]}, headers={"Authorization": f"Bearer {made}"}
    ).json()
    assert (told["new"], told["consents"], told["pending"]) == (1, 0, 1)
    # The sequence lets them in, and its gate holds them out: not opted in.
    hmac = address_hmac(edge.IDENTITIES, WHO)
    assert enroll_identities(asks.database, "one-mail", [hmac]).enrolled == 1
    asks.scan()
    assert asks.send() == {}
    assert asks.send("transactional")["sent"] == 1
    (mail,) = edge.mails(asks)
    assert mail["Subject"] == "Bitte bestätigen: E-Mails zu „news“"
    assert mail["List-Unsubscribe-Post"] is None and "Win now" not in mail.as_string()
    path = link_of(mail)
    # A scanner that follows the link says nothing for anybody.
    assert browser.get(path).status_code == browser.head(path).status_code == 200
    assert row(asks, "SELECT count(*) FROM consent") == (0,)
    page = browser.get(path)
    assert page.headers["content-language"] == "de" and "Ja, schicken Sie mir" in page.text
    done = browser.post(path)
    assert done.status_code == 200 and "Danke" in done.text and "set-cookie" not in done.headers
    assert row(asks, "SELECT topic, opted_in, source FROM consent") == ("news", True, "confirmed")
    with asks.database.snapshot() as connection:
        zoe = get(connection, WHO, edge.IDENTITIES)
        (seen,) = dossier(connection, zoe).opt_ins
        kept = export(connection, zoe)["opt_in"][0]
    assert seen["state"] == "confirmed" and seen["source"] == "import:api shop"
    published = row(
        asks, f"SELECT encode(sha256, 'hex') FROM template WHERE name = '{opt_in.TEMPLATE}'"
    )
    assert (seen["text_version"],) == published
    assert kept["page"].startswith("de ") and kept["said_at"] < kept["confirmed_at"]
    assert not any("ip" in name.split("_") or "address" in name for name in kept)
    # Who signs up again now is not asked; who enters now is written to.
    assert sign_up(asks) == 0
    seeds.sequence(asks.database, ONE.replace("one-mail", "another"))
    enroll_identities(asks.database, "another", [hmac])
    asks.scan()
    assert asks.send()["sent"] == 1
    # The old link brings back nothing that was taken back since.
    with asks.database.transaction() as connection:
        withdraw.answer_topics(connection, zoe.id, {"news": False}, "preferences", "test")
    assert browser.post(path).status_code == 200
    assert row(asks, "SELECT opted_in FROM consent") == (False,)
    assert sign_up(asks) == 0, "nor does a list of a month ago"
    assert row(asks, "SELECT count(*) FROM event WHERE name = 'topic.confirmed'") == (1,)


def test_a_token_that_opens_nothing_is_answered_as_one_that_does(
    asks: Fleet, browser: TestClient
) -> None:
    sign_up(asks, locale=None)
    assert asker().ask_all(asks.database) == 1
    asks.send("transactional")
    path = link_of(edge.mails(asks)[0])
    head, _, mac = path.rpartition(".")
    forged = f"{head}.{'A' * len(mac)}"
    for method in (browser.get, browser.post):
        real, other = method(path), method(forged)
        assert real.status_code == other.status_code == 200
        assert real.text.replace(path.rpartition("/")[2], "") == other.text.replace(
            forged.rpartition("/")[2], ""
        )
    assert browser.get("/confirm/nothing").status_code == 404


def test_nobody_is_asked_often_and_nobody_who_said_stop(asks: Fleet) -> None:
    assert sign_up(asks) == 1
    made = []
    for _ in range(5):
        made.append(asker().ask_all(asks.database))
        sign_up(asks)
        made.append(asker().ask_all(asks.database))  # at once: no
        asks.one("UPDATE opt_in SET asked_at = now() - interval '2 days' RETURNING 1")
        sign_up(asks)
    assert sum(made) == opt_in.MOST == row(asks, "SELECT asks FROM opt_in")[0]
    assert row(asks, "SELECT count(*) FROM message") == (opt_in.MOST,)
    with asks.database.transaction() as connection:
        assert opt_in.again(connection, "news") == 0
    # A stop between the sign-up and the mail holds.
    assert sign_up(asks, email="a@example.com") == 1
    asks.one(
        "INSERT INTO suppression SELECT address_hmac, 'marketing', 'unsubscribe'"
        " FROM subscriber WHERE address = 'a@example.com' RETURNING 1"
    )
    assert asker().ask_all(asks.database) == 0
    assert row(asks, "SELECT count(*) FROM opt_in WHERE wanted") == (0,)


def test_sign_ups_that_nobody_asks_are_found_and_asked_by_hand(
    asks: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sign_up(asks) == 1
    asks.one("UPDATE opt_in SET said_at = now() - interval '1 hour' RETURNING 1")
    with asks.database.transaction() as connection:
        (found,) = sign_ups(connection)
    assert found.severity == "error" and "1 wait to be asked" in found.says
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", asks.database.url)
    monkeypatch.setenv("DRIPFLEET_SECRET_MESSAGE_ID", SECRET.get_secret_value())
    monkeypatch.delenv("DRIPFLEET_EDGE_URL")
    assert main(["topic", "ask", "news"]) == 0
    assert "nobody is asked before DRIPFLEET_EDGE_URL" in capsys.readouterr().err
    monkeypatch.setenv("DRIPFLEET_EDGE_URL", edge.BASE)
    assert main(["topic", "ask", "news"]) == 0
    assert "1 are asked by mail" in capsys.readouterr().err
    assert main(["topic", "list", "--json"]) == 0
    assert '"pending": 1' in capsys.readouterr().out
    assert main(["topic", "set", "nosuch", "--confirm"]) == 1
    assert "there is no topic 'nosuch': expected one of news" in capsys.readouterr().err
    with asks.database.transaction() as connection:
        connection.execute(text("DELETE FROM template"))
    sign_up(asks, email="b@example.com")
    with pytest.raises(Permanent, match="topic set news --confirm"):
        asker().ask_all(asks.database)


def test_the_record_goes_with_erasure_and_the_link_opens_nothing_then(
    asks: Fleet, browser: TestClient
) -> None:
    sign_up(asks)
    asker().ask_all(asks.database)
    asks.send("transactional")
    path = link_of(edge.mails(asks)[0])
    with asks.database.transaction() as connection:
        zoe = get(connection, WHO, edge.IDENTITIES)
        assert erase(connection, zoe.id, WHO, None).rows["opt_ins"] == 1
    assert browser.post(path).status_code == 200
    assert row(asks, "SELECT count(*) FROM consent") == (0,)


@pytest.mark.parametrize(
    "word",
    [
        "UPDATE consent SET opted_in = false RETURNING 1",
        "INSERT INTO suppression SELECT address_hmac, 'marketing', 'opted_out' FROM subscriber"
        " RETURNING 1",
    ],
)
def test_a_claim_asks_for_consent_and_suppression_before_anything_is_rendered(
    fleet: Fleet, word: str
) -> None:
    broken = Bundle("test/mail", {"subject.txt": "{{ nobody.knows }}", "body.txt": "Hi."})
    fleet.enrolled(1, bundle=broken)
    assert fleet.states() == {"scheduled": 1}
    fleet.one(word)
    fleet.send()
    # Rendered, it would have failed; refused at the claim, it says why nobody was written to.
    assert row(fleet, "SELECT state::text, reason FROM message") == ("suppressed", "opted_out")
