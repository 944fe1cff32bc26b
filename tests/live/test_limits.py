"""Quiet hours, windows and caps through a real planner, real SMTP and the rows between them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from models.session import Database
from tasks.moves import operate
from tasks.moves.settings import DeliverySettings, IdentitySettings
from tasks.moves.stop import stop_subscriber
from tasks.sequence.store import Planner
from tests.live import seeds
from tests.live.fleet import Make, eventually

CAPPED = """
key: {key}
title: Capped
class: marketing
topic: {topic}
priority: {priority}
timezone: {{source: subscriber, fallback: UTC}}
entry: {{manual: true}}
limits:
  cap: {{max: {max}, per: 7d, scope: {scope}, on_hit: {on_hit}}}
steps:
  - {{id: mail, send: {{template: test/mail}}}}
"""
NIGHT = """
key: night
title: Never at this hour
class: marketing
topic: news
timezone: {source: subscriber, fallback: UTC}
entry: {manual: true}
limits:
  quiet_hours: {from: "%s", to: "%s"}
steps:
  - {id: mail, send: {template: test/mail}}
"""


@pytest.fixture
def planner(database: Database) -> Planner:
    secret = SecretStr("a secret of the tests")
    return Planner(database, IdentitySettings(secret_message_id=secret), dt.timedelta(days=3))


def run(database: Database, sql: str, **parameters: Any) -> Any:
    with database.transaction() as connection:
        result = connection.execute(text(sql), parameters)
        return result.all() if result.returns_rows else None


def capped(
    database: Database, ids: Sequence[int], key: str = "a", topic: str = "news", **given: Any
) -> None:
    rules = {"max": 1, "scope": "all", "on_hit": "wait", "priority": 50} | given
    seeds.sequence(database, CAPPED.format(key=key, topic=topic, **rules))
    seeds.enroll(database, key, list(ids))


def messages(database: Database) -> dict[str, dict[str, int]]:
    """Sequence → state → messages."""
    found: dict[str, dict[str, int]] = {}
    rows = run(database, "SELECT sequence_key, state::text, count(*) FROM message GROUP BY 1, 2")
    for key, state, n in rows:
        found.setdefault(key, {})[state] = n
    return found


def scan(planner: Planner) -> None:
    while planner.scan().enrollments:
        pass


def due_now(database: Database) -> None:
    run(database, "UPDATE enrollment SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")


def end(database: Database, state: str) -> None:
    """End every live message in a state, as its way there is written."""
    run(
        database,
        "UPDATE message SET state = 'working', run_at = NULL, owner = 'x', epoch = 1,"
        " watch_at = clock_timestamp() + interval '1 h' WHERE state = 'scheduled'",
    )
    if state in ("sent", "in_doubt", "sent_assumed"):
        run(
            database,
            "UPDATE message SET state = 'armed', armed_at = clock_timestamp(), attempts = 1"
            " WHERE state = 'working'",
        )
    if state in ("in_doubt", "sent_assumed"):
        run(
            database,
            "UPDATE message SET state = 'in_doubt', owner = NULL, maybe_delivered = true"
            " WHERE state = 'armed'",
        )
    if state != "in_doubt":
        run(
            database,
            "UPDATE message SET state = CAST(:state AS message_state), owner = NULL,"
            " watch_at = NULL, terminal_at = clock_timestamp()"
            " WHERE state IN ('working', 'armed', 'in_doubt')",
            state=state,
        )


def local(hours: float) -> str:
    """The hour of the clock in Berlin, so far from now."""
    from schedules.localtime import local

    return f"{local(dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours), 'Europe/Berlin'):%H:%M}"


def test_a_mail_in_quiet_hours_is_moved_and_explained_and_none_is_made(
    database: Database, planner: Planner
) -> None:
    ids = seeds.subscribers(database, 1)
    seeds.sequence(database, NIGHT % (local(-1), local(2)))
    seeds.enroll(database, "night", ids)
    scan(planner)
    assert messages(database) == {}
    ((hours, kind, reason),) = run(
        database,
        "SELECT extract(epoch FROM e.due_at - now()) / 3600, d.kind, d.reason"
        " FROM enrollment e JOIN decision d ON d.enrollment_id = e.id",
    )
    assert 1.9 < hours < 2.1
    assert (kind, reason) == ("postponed", "quiet_hours")


def test_a_slow_relay_never_mails_at_night(fleet_with: Make) -> None:
    fleet = fleet_with()
    source = NIGHT % (local(1), local(-1))
    fleet.enrolled(1, source)
    # What was handed over in time is late at the relay: the quiet hours have begun.
    run(
        fleet.database,
        "UPDATE message SET allowed = tstzmultirange(tstzrange(now() - interval '2 h', now()"
        " - interval '1 s'), tstzrange(now() + interval '1 h', now() + interval '2 h'))",
    )
    fleet.send()
    row = fleet.one(
        "SELECT state::text, reason, extract(epoch FROM run_at - now()) AS s FROM message"
    )
    assert (row.state, row.reason) == ("scheduled", "outside_window")
    assert 3500 < row.s <= 3600
    assert fleet.sink.lines() == []


def test_a_retry_after_a_4yz_waits_for_the_morning(
    fleet_with: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_BACKOFF_FIRST", "5")
    fleet = fleet_with("dot:451,limit=1")
    fleet.enrolled(1, NIGHT % (local(1), local(3)))
    # The relay puts it off a moment before the quiet hours begin.
    run(
        fleet.database,
        "UPDATE message SET allowed = allowed - tstzmultirange(tstzrange("
        "clock_timestamp() + interval '4 s', clock_timestamp() + interval '2 h'))",
    )
    fleet.send()
    eventually(lambda: fleet.one("SELECT deferrals FROM message").deferrals == 1)
    row = fleet.one("SELECT state::text, extract(epoch FROM run_at - now()) AS s FROM message")
    assert row.state == "scheduled"
    assert 10_700 < row.s <= 10_800


def test_a_handed_over_mail_is_allowed_until_the_quiet_hours_begin(
    database: Database, planner: Planner
) -> None:
    ids = seeds.subscribers(database, 1)
    seeds.sequence(database, NIGHT % (local(2), local(5)))
    seeds.enroll(database, "night", ids)
    scan(planner)
    spans = run(
        database,
        "SELECT extract(epoch FROM lower(r) - now()) / 3600 AS a,"
        " extract(epoch FROM upper(r) - now()) / 3600 AS b FROM message, unnest(allowed) r",
    )
    assert 1.9 < spans[0].b < 2.1
    assert 4.9 < spans[1].a < 5.1
    assert spans[-1].b <= 72


@pytest.mark.parametrize("state", ["failed", "suppressed", "cancelled", "expired"])
def test_a_slot_is_given_back_when_the_mail_ends_so(
    database: Database, planner: Planner, state: str
) -> None:
    ids = seeds.subscribers(database, 1)
    capped(database, ids)
    scan(planner)
    capped(database, ids, "b")
    scan(planner)
    assert messages(database) == {"a": {"scheduled": 1}}
    end(database, state)
    due_now(database)
    scan(planner)
    assert messages(database) == {"a": {state: 1}, "b": {"scheduled": 1}}


@pytest.mark.parametrize("state", ["sent", "in_doubt", "sent_assumed"])
def test_a_slot_is_never_given_back_from_doubt_or_after_it_went(
    database: Database, planner: Planner, state: str
) -> None:
    ids = seeds.subscribers(database, 1)
    capped(database, ids)
    scan(planner)
    end(database, state)
    capped(database, ids, "b")
    scan(planner)
    due_now(database)
    scan(planner)
    assert messages(database) == {"a": {state: 1}}
    # A week after it went there is room again.
    if state != "in_doubt":
        run(database, "UPDATE message SET armed_at = armed_at - interval '7 d 1 s'")
        due_now(database)
        scan(planner)
        assert messages(database) == {"a": {state: 1}, "b": {"scheduled": 1}}


@pytest.mark.parametrize(
    ("scope", "topic", "made"),
    [("all", "other", 0), ("topic", "other", 1), ("topic", "news", 0), ("sequence", "news", 1)],
)
def test_a_cap_counts_the_mails_of_its_scope(
    database: Database, planner: Planner, scope: str, topic: str, made: int
) -> None:
    ids = seeds.subscribers(database, 1)
    capped(database, ids, "a", topic)
    scan(planner)
    capped(database, ids, "b", "news", scope=scope)
    scan(planner)
    assert messages(database).get("b", {}) == ({"scheduled": 1} if made else {})


def test_a_cap_that_skips_ends_the_mail_capped_and_says_so(
    database: Database, planner: Planner
) -> None:
    ids = seeds.subscribers(database, 1)
    capped(database, ids)
    scan(planner)
    capped(database, ids, "b", on_hit="skip")
    scan(planner)
    assert messages(database)["b"] == {"capped": 1}
    ((reason,),) = run(
        database, "SELECT reason FROM message WHERE sequence_key = 'b' AND state = 'capped'"
    )
    assert reason == "frequency_cap"


def test_on_contention_priority_then_due_time_then_key(
    database: Database, planner: Planner
) -> None:
    ids = seeds.subscribers(database, 3)
    for key, priority in (("c", 90), ("b", 10), ("a", 10)):
        capped(database, ids, key, priority=priority)
    one, two, three = ids
    # Three due at once; two of one priority, one of them due before; two alike.
    run(database, "UPDATE enrollment SET due_at = now() - interval '1 min'")
    run(database, "DELETE FROM enrollment WHERE sequence_key = 'c' AND subscriber_id <> :i", i=one)
    run(
        database,
        "UPDATE enrollment SET due_at = now() - interval '2 min'"
        " WHERE sequence_key = 'b' AND subscriber_id = :i",
        i=two,
    )
    planner.scan(1)  # however few a batch holds
    for _ in range(3):
        scan(planner)
        due_now(database)
    won = run(database, "SELECT subscriber_id, sequence_key FROM message ORDER BY subscriber_id")
    assert [tuple(row) for row in won] == [(one, "c"), (two, "b"), (three, "a")]


def test_two_planners_at_once_never_take_more_slots_than_there_are(database: Database) -> None:
    identity = IdentitySettings(secret_message_id=SecretStr("a secret of the tests"))
    ids = seeds.subscribers(database, 200)
    for key in ("a", "b", "c", "d"):
        capped(database, ids, key, max=2)
    start = Barrier(4)

    def work(_: int) -> None:
        planner = Planner(database, identity, dt.timedelta(days=3))
        start.wait()
        for _ in range(40):
            planner.scan(20)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    for _ in range(3):
        due_now(database)
        scan(Planner(database, identity, dt.timedelta(days=3)))
    per = run(database, "SELECT n, count(*) FROM (SELECT count(*) AS n FROM message GROUP BY"
              " subscriber_id) x GROUP BY n")  # fmt: skip
    assert [tuple(row) for row in per] == [(2, 200)]


def test_a_mail_that_an_operator_tries_again_takes_its_slot_again(
    database: Database, planner: Planner
) -> None:
    ids = seeds.subscribers(database, 1)
    capped(database, ids)
    scan(planner)
    end(database, "failed")
    ((message,),) = run(database, "SELECT id FROM message")
    with database.transaction() as connection:
        assert operate.retry(connection, [message], DeliverySettings()).done == [message]
    capped(database, ids, "b")
    scan(planner)
    assert messages(database) == {"a": {"scheduled": 1}}
    with database.transaction() as connection:
        stop_subscriber(connection, ids[0], "unsubscribe")
    assert messages(database) == {"a": {"suppressed": 1}}
