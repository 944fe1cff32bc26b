"""Clicks and opens of mails that came: to stored links alone, counted once, in Postgres when answered."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from models.session import Database
from tasks import hits
from tasks.send.render import Bundle
from tasks.send.tokens import sign
from tasks.track.store import Judged, settle
from tests.live import edge, seeds
from tests.live.fleet import Fleet
from workers.doctor import edge as doctor
from workers.metrics.edge import EdgeMeter
from workers.metrics.families import EDGE

PAGE = """<html><body><a href="https://shop.example/a?x=1&amp;y=é">A</a>
<a href="https://shop.example/b">B</a> <a href="{{ unsubscribe.url }}">off</a></body></html>"""
MAIL = Bundle("test/page", {"subject.txt": "Hi", "body.txt": "Hi", "body.html": PAGE})
ONE = seeds.ONE_MAIL.format(class_="marketing", template="test/page")
PHONE = {"user-agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) Safari/604.1"}


@pytest.fixture(autouse=True)
def _base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIPFLEET_EDGE_URL", edge.BASE)


@pytest.fixture
def browser(database: Database) -> Iterator[TestClient]:
    with edge.client(database) as client:
        client.headers.update(PHONE)
        yield client


def events(database: Database) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT name, properties FROM event ORDER BY id"))
        return [tuple(row) for row in rows]


def came(fleet: Fleet, tracking: str) -> tuple[list[str], list[str]]:
    """Send one tracked mail; its links and its pixels, as paths."""
    with fleet.database.transaction() as connection:
        hits.track(connection, "marketing", tracking)
    fleet.enrolled(1, ONE, MAIL)
    assert fleet.send()["sent"] == 1
    (mail,) = edge.mails(fleet)
    part = mail.get_body(("html",))
    assert part is not None
    html = part.get_content()
    find = re.compile(rf"{re.escape(edge.BASE)}(/[co]/[\w.-]+)")
    found = find.findall(html)
    return [p for p in found if p[1] == "c"], [p for p in found if p[1] == "o"]


def test_a_click_goes_to_the_stored_link_and_becomes_an_event_that_names_its_mail(
    fleet: Fleet, browser: TestClient
) -> None:
    links, pixels = came(fleet, "all")
    assert len(links) == 3 and len(pixels) == 1
    for path in (*links, *pixels):
        browser.head(path)
    assert settle(fleet.database, settled=0).hits == 0, "HEAD counts nothing"
    first, second, hidden = links
    answer = browser.get(first)
    assert answer.status_code == 302
    assert answer.headers["location"] == "https://shop.example/a?x=1&y=%C3%A9"
    picture = browser.get(pixels[0])
    assert picture.headers["content-type"] == "image/gif" and len(picture.content) == 43
    assert picture.headers["cross-origin-resource-policy"] == "cross-origin"
    assert settle(fleet.database).hits == 0, "its seconds are not over"
    with fleet.database.transaction() as connection:
        assert not hits.to_judge(connection) and not list(doctor.hits(connection))
        connection.execute(text("UPDATE hit SET at = at - interval '5 min'"))
        assert hits.to_judge(connection)
        (said,) = doctor.hits(connection)
        assert said.severity == "error" and "waits for 5 min" in said.says
    assert settle(fleet.database, settled=0) == Judged(people=2)
    (click, open_) = events(fleet.database)
    assert click[0] == "email.clicked" and open_[0] == "email.opened"
    told = click[1]
    assert (told["sequence"], told["step"]) == ("one-mail", "mail") and "machine" not in told
    assert told["url"] == "https://shop.example/a?x=1&y=%C3%A9" and told["link"]
    # Who follows the hidden one was a machine, and so was what came with it.
    assert browser.get(hidden).status_code == 404
    browser.get(second)
    browser.get(pixels[0], headers={"user-agent": "Mozilla/5.0"})
    assert settle(fleet.database, settled=0) == Judged(machines=3)
    whys = [properties.get("why") for _, properties in events(fleet.database)]
    assert whys == [None, None, "hidden_link", "hidden_link", "apple_mpp"]
    # A mail made again for `message show` is the one that went.
    from tasks.send.dossier import dossier

    with fleet.database.snapshot() as connection:
        (message,) = connection.execute(text("SELECT id FROM message")).one()
        found = dossier(connection, str(message), fleet.settings)
    assert found.mail is not None and found.mail.likeness == "same"


def test_nobody_is_followed_unless_an_operator_says_so_of_the_stream(fleet: Fleet) -> None:
    assert came(fleet, "none") == ([], [])


def test_a_forged_link_leads_nowhere_and_no_request_says_where_to(
    database: Database, browser: TestClient
) -> None:
    keys = edge.settings().keys
    with database.transaction() as connection:
        connection.execute(
            text("INSERT INTO link (sha256, url) VALUES ('x', 'https://shop.example/')")
        )
    good = sign(keys, "click", 1, 1)
    assert browser.get(f"/c/{good}?url=https://evil.example").headers["location"] == (
        "https://shop.example/"
    )
    for forged in (
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        sign(keys, "click", 1, 2),
        sign(keys, "click", 1),
        sign(keys, "unsubscribe", 1),
        "https://evil.example",
        "x" * 5000,
    ):
        answer = browser.get(f"/c/{forged}")
        assert answer.status_code == 404 and "location" not in answer.headers
    assert browser.post(f"/c/{good}").status_code == 405
    # A pixel is always a picture: nobody is to see a broken one.
    assert browser.get(f"/o/{good}").content[:3] == b"GIF"


def test_a_click_settles_a_doubt_where_there_was_one_try(fleet: Fleet, browser: TestClient) -> None:
    links, _ = came(fleet, "clicks")
    with fleet.database.transaction() as connection:
        connection.execute(text("ALTER TABLE message DISABLE TRIGGER USER"))
        connection.execute(
            text(
                "UPDATE message SET state = 'sent_assumed', reason = 'assumed',"
                " maybe_delivered = true"
            )
        )
        connection.execute(
            text("UPDATE attempt SET outcome = 'in_doubt', code = NULL, reply = NULL")
        )
        connection.execute(text("ALTER TABLE message ENABLE TRIGGER USER"))
    browser.get(links[0])
    assert settle(fleet.database, settled=0).people == 1
    assert fleet.states() == {"sent": 1}


@pytest.fixture
def process(database: Database, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with edge.served(database, tmp_path) as found:
        yield found


async def click(port: int, tokens: list[str], answered: set[int], lost: asyncio.Event) -> None:
    """Follow links one after the other on one connection; note those that were answered."""
    reading, writing = await asyncio.open_connection("127.0.0.1", port)
    try:
        while tokens:
            number = len(tokens)
            token = tokens.pop()
            writing.write(f"GET /c/{token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await reading.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 302"), head
            answered.add(number)
    except (OSError, asyncio.IncompleteReadError):
        lost.set()
    finally:
        writing.close()
        with contextlib.suppress(OSError):
            await writing.wait_closed()


def test_what_was_answered_is_in_postgres_though_the_process_is_killed(
    database: Database, process: tuple[subprocess.Popen[bytes], int]
) -> None:
    running, port = process
    with database.transaction() as connection:
        connection.execute(
            text("INSERT INTO link (sha256, url) VALUES ('x', 'https://shop.example/')")
        )
    keys = edge.settings().keys
    tokens = [sign(keys, "click", number, 1) for number in range(1, 20_001)]
    answered: set[int] = set()

    async def storm() -> None:
        lost = asyncio.Event()
        clicking = [asyncio.create_task(click(port, tokens, answered, lost)) for _ in range(32)]
        while len(answered) < 500:
            await asyncio.sleep(0.001)
        running.send_signal(signal.SIGKILL)
        await asyncio.wait_for(lost.wait(), 10)
        await asyncio.gather(*clicking)

    asyncio.run(storm())
    assert 500 <= len(answered) < 20_000
    with database.transaction() as connection:
        written = set(connection.execute(text("SELECT message_id FROM hit")).scalars())
    assert answered <= written


def test_a_stop_answers_what_is_in_hand_and_ends_well(
    database: Database, process: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    running, port = process
    with database.transaction() as connection:
        connection.execute(
            text("INSERT INTO link (sha256, url) VALUES ('x', 'https://shop.example/')")
        )

    async def one() -> bytes:
        reading, writing = await asyncio.open_connection("127.0.0.1", port)
        token = sign(edge.settings().keys, "click", 7, 1)
        with database.raw() as held:
            held.execute("BEGIN")
            held.execute("LOCK TABLE hit IN SHARE MODE")
            writing.write(f"GET /c/{token} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await writing.drain()
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            with database.raw() as asking:
                while not asking.execute(waiting).fetchall()[0][0]:
                    await asyncio.sleep(0.01)
            running.send_signal(signal.SIGTERM)
            await asyncio.sleep(0)
            held.execute("COMMIT")
        head = await reading.readuntil(b"\r\n\r\n")
        writing.close()
        return head

    assert asyncio.run(one()).startswith(b"HTTP/1.1 302")
    assert running.wait(15) == 0
    log = (tmp_path / "edge.log").read_text()
    assert "Traceback" not in log and '"route": "/c", "status": 302' in log


def test_what_the_edge_answers_is_counted_by_route_and_program_and_served_apart(
    database: Database,
) -> None:
    meter = EdgeMeter()
    registry = CollectorRegistry()
    registry.register(meter)
    with edge.client(database, meter=meter) as client:
        client.get(f"/o/{sign(edge.settings().keys, 'open', 1)}", headers=PHONE)
        client.get(f"/o/{sign(edge.settings().keys, 'open', 2)}", headers={"user-agent": "curl/8"})
        client.get("/c/forged")
        client.post("/v1/events", json={})
        assert client.get("/metrics").status_code == 404, "never where readers are"
    meter.lost()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"dripfleet_edge_{name}", labels)

    assert value("requests_total", route="/o", status="200") == 2
    assert value("requests_total", route="/c", status="404") == 1
    assert value("seconds_count", route="/o") == value("seconds_bucket", route="/o", le="+Inf") == 2
    assert value("hits_total", agent="browser") == value("hits_total", agent="tool") == 1
    assert value("group_sum") == 2 and value("hits_lost_total") == 1
    assert value("refused_total", reason="unknown") == 1
    found = {family.name: family for family in registry.collect()}
    assert set(found) == {family.name.removesuffix("_total") for family in EDGE}
