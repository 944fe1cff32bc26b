"""A machine that reads mail is told from a person, by its name or by what it does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.send import links
from tasks.track.agents import agent_of
from tasks.track.engine import HONEYPOT, Hit, judge
from workers.edge import hits
from workers.edge.hits import HitRow, Hits

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/18.1 Mobile/15E148 Safari/604.1"
)


@pytest.mark.parametrize(
    ("name", "agent"),
    [
        (PHONE, "browser"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "browser"),
        ("Mozilla/5.0", "apple_mpp"),
        ("Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
         "google_proxy"),
        ("YahooMailProxy; https://help.yahoo.com/kb/SLN28749.html", "yahoo_proxy"),
        ("Mozilla/5.0 (compatible; Barracuda Sentinel)", "scanner"),
        ("Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5", "preview"),
        ("Mozilla/5.0 (compatible; bingbot/2.0)", "scanner"),
        ("Mozilla/5.0 (X11) HeadlessChrome/140.0", "scanner"),
        ("python-requests/2.32", "tool"), ("curl/8.5.0", "tool"), ("Go-http-client/2.0", "tool"),
        ("", "unnamed"), ("   ", "unnamed"),
    ],
)  # fmt: skip
def test_a_program_that_names_itself_is_believed(name: str, agent: str) -> None:
    assert agent_of(name) == agent


def test_what_a_browser_fetches_ahead_of_its_reader_is_no_click() -> None:
    assert agent_of(PHONE, "prefetch;prerender") == "prefetch"
    assert agent_of(PHONE, "") == "browser"


@given(st.text(), st.text())
def test_no_name_of_a_program_is_a_fault(name: str, purpose: str) -> None:
    assert agent_of(name, purpose)


def hit(number: int, link: int | None, seconds: float, agent: str = "browser") -> Hit:
    return Hit(number, link, agent, NOW + timedelta(seconds=seconds))


def test_a_person_follows_a_link_or_two_and_comes_back_later() -> None:
    told = judge([hit(1, None, 0), hit(2, 5, 4), hit(3, 6, 9), hit(4, 7, 60), hit(5, 5, 61)])
    assert set(told.values()) == {None} and set(told) == {1, 2, 3, 4, 5}


def test_who_follows_everything_within_seconds_is_a_machine_and_all_that_it_did_was() -> None:
    swept = [hit(1, 5, 0), hit(2, None, 0.5), hit(3, 6, 1), hit(4, 7, 2)]
    later = [hit(5, 5, 3600)]
    told = judge([*later, *swept])
    assert told == {1: "all_links", 2: "all_links", 3: "all_links", 4: "all_links", 5: None}


def test_the_same_link_again_and_again_is_one_click_of_an_impatient_person() -> None:
    assert judge([hit(n, 5, n / 10) for n in range(20)]) == {0: None}
    # Whoever hammers on a link makes a click of it every ten seconds, and is judged in no time.
    hammered = judge([hit(n, 5, n / 1000) for n in range(30_000)])
    assert len(hammered) == 3


def test_who_follows_the_link_that_no_human_sees_is_a_machine() -> None:
    told = judge([hit(1, 5, 0), hit(2, HONEYPOT, 1), hit(3, None, 2), hit(4, 5, 900)])
    assert told == {1: "hidden_link", 2: "hidden_link", 3: "hidden_link", 4: None}
    assert HONEYPOT == links.HONEYPOT


def test_hits_that_come_together_are_written_together_and_answered_when_they_are() -> None:
    groups: list[list[HitRow]] = []

    async def write(rows: Sequence[HitRow]) -> None:
        groups.append(list(rows))
        await asyncio.sleep(0.005)

    async def run() -> list[bool]:
        taker = Hits(write)
        taker.start()
        try:
            return await asyncio.gather(*(taker.add(n, None, "browser") for n in range(500)))
        finally:
            await taker.stop()

    assert all(asyncio.run(run()))
    assert sorted(row[0] for group in groups for row in group) == list(range(500))
    assert len(groups) <= 5


def test_a_connection_that_breaks_is_tried_again_and_a_postgres_that_stays_away_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hits, "PATIENCE", 0.3)
    calls = 0

    async def breaks_once(rows: Sequence[HitRow]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise psycopg.OperationalError("terminated")

    async def away(rows: Sequence[HitRow]) -> None:
        raise psycopg.OperationalError("refused")

    async def run(write: hits.Write) -> bool:
        taker = Hits(write)
        taker.start()
        try:
            return await taker.add(1, 2, "browser")
        finally:
            await taker.stop()

    assert asyncio.run(run(breaks_once)) and calls == 2
    assert asyncio.run(run(away)) is False
