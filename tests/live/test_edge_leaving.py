"""Leaving by a mail that came: nothing more is sent, though it was queued already, and one can see why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from models.session import Database
from tasks.audience.leaving import reader
from tasks.moves.settings import DeliverySettings
from tasks.send.tokens import sign
from tasks.sequence.explain import explain
from tasks.upkeep.verify import VerifySettings, verify
from tests.live import edge, seeds
from tests.live.fleet import Fleet, eventually
from workers.doctor import edge as doctor
from workers.edge import pages

FORGED = "k1.AAAAAAAAAfQ.AAAAAAAAAAAAAAAAAAAAAA"
TWO = seeds.TWO_MAILS.replace("  - {id: wait, wait: {delay: 1s}}\n", "")
RECEIPT = seeds.ONE_MAIL.format(class_="transactional", template="test/mail").replace(
    "one-mail", "receipt"
)


@pytest.fixture(autouse=True)
def _base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIPFLEET_EDGE_URL", edge.BASE)


@pytest.fixture
def browser(database: Database) -> Iterator[TestClient]:
    with edge.client(database) as client:
        yield client


@pytest.fixture
def queued(_base: None, fleet: Fleet) -> Fleet:
    """One person whose first mail is at the sink, and whose second stands in the queue."""
    fleet.enrolled(1, TWO)
    fleet.send()

    def stands() -> bool:
        fleet.scan()
        return fleet.states() == {"sent": 1, "scheduled": 1}

    eventually(stands)
    return fleet


def rows(fleet: Fleet, sql: str) -> list[tuple[Any, ...]]:
    with fleet.database.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def test_one_click_from_the_mail_stops_what_is_queued_and_explain_names_the_click(
    queued: Fleet, browser: TestClient
) -> None:
    (mail,) = edge.mails(queued)
    path = edge.path_to_leave(mail)
    # A scanner that follows the link, in both ways that it may, changes nothing.
    assert browser.get(path).status_code == browser.head(path).status_code == 200
    assert queued.states() == {"sent": 1, "scheduled": 1}
    answer = browser.post(path, data={"List-Unsubscribe": "One-Click"})
    assert answer.status_code == 200 and "location" not in answer.headers
    assert "set-cookie" not in answer.headers
    assert queued.states() == {"sent": 1, "suppressed": 1}
    assert queued.send() == {} and len(edge.mails(queued)) == 1
    (sent,) = rows(queued, "SELECT id FROM message WHERE state = 'sent'")[0]
    (who,) = rows(queued, "SELECT id FROM subscriber")[0]
    with queued.database.snapshot() as connection:
        told = "\n".join(map(str, explain(connection, who).lines))
    assert "ended: suppressed, because of unsubscribe" in told
    assert f"message {sent} said no to all marketing mail (the one click of a mail program)" in told
    assert f"unsubscribe (the one click of a mail program, of message {sent})" in told
    # Once more, as a program that got no answer would: nothing is written twice.
    before = rows(queued, "SELECT count(*) FROM decision")
    assert browser.post(path).status_code == 200
    assert rows(queued, "SELECT count(*) FROM decision") == before
    assert rows(queued, "SELECT name, properties ->> 'how' FROM event") == [
        ("email.unsubscribed", "one-click")
    ]
    assert verify(queued.database, DeliverySettings(), VerifySettings()).clean


def test_a_receipt_reaches_who_left_marketing_and_says_no_list(
    queued: Fleet, browser: TestClient
) -> None:
    browser.post(edge.path_to_leave(edge.mails(queued)[0]))
    (who,) = rows(queued, "SELECT id FROM subscriber")[0]
    seeds.enroll(queued.database, seeds.sequence(queued.database, RECEIPT), [who])
    queued.scan()
    queued.send("transactional")
    receipt = edge.mails(queued)[-1]
    assert len(edge.mails(queued)) == 2 and receipt["List-Unsubscribe-Post"] is None


class _Page(HTMLParser):
    """What a person without a mouse, a script or eyes needs of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def readable(html: str, language: str) -> _Page:
    page = _Page(html)
    assert page.all("html")[0]["lang"] == language
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    labelled = {label["for"] for label in page.all("label")}
    fields = [f for f in page.all("input") if f.get("type") != "hidden"] + page.all("select")
    assert all(field["id"] in labelled for field in fields)
    assert len(page.all("fieldset")) == len(page.all("legend"))
    assert not page.all("script") and not page.all("img") and "onclick" not in html
    return page


def test_the_page_offers_topics_and_a_break_in_the_readers_language(
    queued: Fleet, browser: TestClient
) -> None:
    with queued.database.transaction() as connection:
        connection.execute(text("UPDATE subscriber SET locale = 'de-AT'"))
        connection.execute(text("INSERT INTO topic (key, title) VALUES ('offers', 'Angebote <&>')"))
    path = edge.path_to_leave(edge.mails(queued)[0])
    shown = browser.get(path, headers={"accept-language": "en"})
    page = readable(shown.text, "de")
    assert "Alle Werbemails abbestellen" in shown.text and "Angebote &lt;&amp;&gt;" in shown.text
    assert "person1" not in shown.text and "Zoë" not in shown.text, "the page tells nobody who"
    boxes = {b["value"]: "checked" in b for b in page.all("input") if b.get("type") == "checkbox"}
    assert boxes == {"news": True, "offers": False}
    # One topic more, and the other one no more: what is queued of that one ends.
    chosen = {"shown": ["news", "offers"], "topic": ["offers"], "snooze": ""}
    saved = browser.post(f"{path}/preferences", data=chosen)
    readable(saved.text, "de")
    assert saved.status_code == 200 and "Auswahl ist gespeichert" in saved.text
    assert queued.states() == {"sent": 1, "suppressed": 1}
    answers = rows(queued, "SELECT topic, opted_in, source FROM consent ORDER BY 1")
    assert answers == [("news", False, "preferences"), ("offers", True, "preferences")]
    assert rows(queued, "SELECT end_reason FROM enrollment") == [("opted_out",)]


def test_a_break_holds_what_is_queued_and_what_is_planned_and_ends_by_itself(
    queued: Fleet, browser: TestClient
) -> None:
    path = edge.path_to_leave(edge.mails(queued)[0])
    keep = {"shown": "news", "topic": "news"}
    assert browser.post(f"{path}/preferences", data={**keep, "snooze": "7"}).status_code == 200
    assert queued.send() == {} and queued.states() == {"sent": 1, "scheduled": 1}
    ahead = "SELECT run_at - now() > '6 days 23 h', expires_at > run_at + '2 days' FROM message"
    assert rows(queued, f"{ahead} WHERE state = 'scheduled'") == [(True, True)]
    one = seeds.sequence(
        queued.database, seeds.ONE_MAIL.format(class_="marketing", template="test/mail")
    )
    (who,) = rows(queued, "SELECT id FROM subscriber")[0]
    seeds.enroll(queued.database, one, [who])
    queued.scan()
    waits = (
        "SELECT wait_rule ->> 'by', due_at - now() > '6 days' FROM enrollment WHERE sequence_key"
    )
    assert rows(queued, f"{waits} = 'one-mail'") == [("snooze", True)]
    page = browser.get(path)
    assert "You get no marketing mails until" in page.text
    # Its reader ends it: what was planned goes on at once.
    browser.post(f"{path}/preferences", data={**keep, "snooze": "0"})
    queued.scan()
    assert rows(queued, "SELECT count(*) FROM message WHERE sequence_key = 'one-mail'") == [(1,)]
    with queued.database.snapshot() as connection:
        told = "\n".join(map(str, explain(connection, who).lines))
    assert "asked for a pause until" in told and "asked for a pause no more" in told


def test_a_token_that_opens_nothing_is_answered_as_one_that_does(
    queued: Fleet, browser: TestClient
) -> None:
    good = edge.path_to_leave(edge.mails(queued)[0]).removeprefix("/u/")
    stranger = sign(edge.settings().keys, "unsubscribe", 10**9)
    for forged in (FORGED, stranger, sign(edge.settings().keys, "open", 1)):
        known, unknown = browser.get(f"/u/{good}"), browser.get(f"/u/{forged}")
        assert known.status_code == unknown.status_code == 200
        assert known.text.replace(good, "T") == unknown.text.replace(forged, "T")
    before = queued.states()
    for forged in (FORGED, stranger):
        assert "off the list" in browser.post(f"/u/{forged}").text
        assert browser.post(f"/u/{forged}/preferences", data={"snooze": "7"}).status_code == 200
    assert queued.states() == before
    assert browser.post(f"/u/{good}").text == browser.post(f"/u/{FORGED}").text
    with queued.database.snapshot() as connection:
        assert reader(connection, 10**9) == reader(connection, None)
    for none in ("x", "k1.AAAAAAAAAfQ", "%00", "<b>"):
        assert browser.get(f"/u/{none}").status_code == 404


def test_answers_carry_what_keeps_a_browser_safe_bodies_are_bounded_and_the_log_tells_no_token(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with edge.client(database) as browser:
        _safe(browser)
        browser.get(f"/u/{FORGED}", headers={"user-agent": "Zoe's phone"})
        browser.request("BREW", "/zoe@example.com")
    told = capsys.readouterr().err
    assert '"route": "/u", "status": 200' in told and '"method": "other", "route": "/other"' in told
    assert not re.search(r"AAAA|zoe|phone|testclient|127\.0", told, re.IGNORECASE)


def _safe(browser: TestClient) -> None:
    answer = browser.get(f"/u/{FORGED}")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["strict-transport-security"]
    large = browser.post(f"/u/{FORGED}", content=b"x" * 20_000)
    assert large.status_code == 413
    assert large.headers["content-type"] == "application/problem+json"
    parts = browser.post(f"/u/{FORGED}", content=iter([b"x" * 10_000] * 2))
    assert parts.status_code == 413
    nothing = browser.get("/nothing")
    assert nothing.status_code == 404 and nothing.json()["status"] == 404
    assert browser.get("/healthz").json() == {"status": "ok"}
    assert browser.get("/readyz").json() == {"status": "ok"}


def test_every_language_of_the_pages_says_everything() -> None:
    keys = set(pages.words("en"))
    for language in pages.languages():
        assert set(pages.words(language)) == keys, language
    assert pages.languages() >= {"en", "de"}
    assert pages.language_of(None, "fr;q=1, de-CH;q=0.9, en;q=0.1") == "de"
    assert pages.language_of("en-US", "de") == "en"
    assert pages.language_of("xx", "q=;;,,\x00") == "en"


def test_doctor_says_that_mails_name_no_edge_and_that_one_does_not_answer(tmp_path: Path) -> None:
    (said,) = doctor.edge("", tmp_path)
    assert (said.severity, said.check) == ("warning", "edge") and "RFC 8058" in said.says
    (said,) = doctor.edge("http://127.0.0.1:1", tmp_path)
    assert said.severity == "error" and "http://127.0.0.1:1 is not ready" in said.says
