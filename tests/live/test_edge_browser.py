"""A person in a browser leaves a list from a mail that came, and gets nothing more."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.live import edge, seeds
from tests.live.fleet import Fleet
from tests.live.webdriver import browsing

TWO = seeds.TWO_MAILS.replace("  - {id: wait, wait: {delay: 1s}}\n", "")
DRIVER = os.environ.get("DRIPFLEET_TEST_WEBDRIVER")
"""Such as Debian's /usr/bin/chromedriver, of its package chromium-driver."""


@pytest.fixture(autouse=True)
def _base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIPFLEET_EDGE_URL", edge.BASE)


@pytest.mark.skipif(DRIVER is None, reason="DRIPFLEET_TEST_WEBDRIVER names no driver of a browser")
def test_a_person_in_a_browser_chooses_then_leaves_and_what_is_queued_is_not_sent(
    _base: None, fleet: Fleet, tmp_path: Path
) -> None:
    fleet.enrolled(1, TWO)
    fleet.send()
    fleet.scan()
    assert fleet.states() == {"sent": 1, "scheduled": 1}
    with fleet.database.transaction() as connection:
        connection.execute(text("INSERT INTO topic (key, title) VALUES ('offers', 'Offers')"))
    path = edge.path_to_leave(edge.mails(fleet)[0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        spare = free.getsockname()[1]
    with edge.served(fleet.database, tmp_path) as (_, port), browsing(str(DRIVER), spare) as person:
        person.open(f"http://127.0.0.1:{port}{path}")
        if folder := os.environ.get("DRIPFLEET_TEST_PICTURES"):
            person.picture(Path(folder) / "choose.png")
        # Whoever hears the page is told what each thing is.
        labels = [person.label(each) for each in person.all("main input:not([type=hidden])")]
        assert labels == ["news", "Offers"]
        assert [person.label(each) for each in person.all("select")] == [
            "Take a break from marketing mails"
        ]
        person.click("#t2")
        person.click("form[action$=preferences] button")
        assert "Your choice is saved" in person.text("h1")
        person.click("main a")
        assert len(person.all("#t2:checked")) == 1 and len(person.all("#t1:checked")) == 1
        person.click("button.stop")
        assert "You are off the list" in person.text("h1")
        if folder:
            person.picture(Path(folder) / "left.png")
    assert fleet.states() == {"sent": 1, "suppressed": 1}
    assert fleet.send() == {} and len(edge.mails(fleet)) == 1
