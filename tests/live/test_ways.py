"""Branches, updates and exit rules through a real planner: facts in, rows out, locks in order."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from models.session import Database
from tasks.moves import update
from tasks.moves.settings import IdentitySettings
from tasks.moves.stop import stop_subscriber
from tasks.sequence.store import Planner
from tests.live import seeds

HEAD = """
key: ways
title: Ways
class: marketing
topic: news
timezone: {source: subscriber, fallback: UTC}
entry: {manual: true}
"""
BRANCH = (
    HEAD
    + """
steps:
  - id: which
    branch:
      - {if: "count('purchase', within='30d') >= 2", next: many}
      - {if: "score('churn', max_age='24h') >= 0.8", next: risky}
      - {else: rest}
    on_stale: unknown
  - {id: many, exit: {reason: many}}
  - {id: risky, exit: {reason: risky}}
  - {id: rest, exit: {reason: rest}}
  - {id: unknown, exit: {reason: unknown}}
"""
)
UPDATE = (
    HEAD
    + """
steps:
  - {id: set, update: {set: {n: {expression: "sub.n + 1"}, plan: pro}, topics: {offers: true, news: false}}}
  - {id: which, branch: [{if: "sub.plan == 'pro' and sub.n == 2", next: mail}, {else: end}]}
  - {id: mail, send: {template: test/mail}}
  - {id: end, exit: {reason: wrong}}
"""
)
EXITS = (
    HEAD
    + """
exit:
  - {event: purchase, reason: converted}
  - {when: "sub.country == 'NO'", reason: norway}
  - {after: 45d, reason: expired}
steps:
  - {id: mail, send: {template: test/mail}}
"""
)


@pytest.fixture
def planner(database: Database) -> Planner:
    secret = SecretStr("a secret of the tests")
    return Planner(database, IdentitySettings(secret_message_id=secret), dt.timedelta(days=3))


def run(database: Database, sql: str, **parameters: Any) -> Any:
    with database.transaction() as connection:
        result = connection.execute(text(sql), parameters)
        return result.all() if result.returns_rows else None


def ends(database: Database) -> dict[int, str | None]:
    rows = run(database, "SELECT subscriber_id, end_reason FROM enrollment ORDER BY subscriber_id")
    return {row.subscriber_id: row.end_reason for row in rows}


def attributes(database: Database, id_: int) -> Any:
    return run(database, "SELECT attributes FROM subscriber WHERE id = :id", id=id_)[0][0]


def consents(database: Database, id_: int) -> dict[str, tuple[bool, str]]:
    rows = run(
        database, "SELECT topic, opted_in, source FROM consent WHERE subscriber_id = :id", id=id_
    )
    return {row.topic: (row.opted_in, row.source) for row in rows}


def topics(database: Database, *keys: str) -> None:
    for key in keys:
        run(
            database, "INSERT INTO topic (key, title) VALUES (:k, :k) ON CONFLICT DO NOTHING", k=key
        )


def buy(database: Database, id_: int, days_ago: float, recorded_days_ago: float = 0) -> None:
    run(
        database,
        "INSERT INTO event (subscriber_id, name, occurred_at, recorded_at) VALUES (:id, 'purchase',"
        " now() - make_interval(secs => :o), now() - make_interval(secs => :r))",
        id=id_,
        o=days_ago * 86400,
        r=recorded_days_ago * 86400,
    )


def test_each_takes_the_way_that_the_facts_say(database: Database, planner: Planner) -> None:
    many, old, risky, calm, stale, none = ids = seeds.subscribers(database, 6)
    for id_, days in ((many, (1, 2)), (old, (1, 40))):
        for ago in days:
            buy(database, id_, ago)
    for id_, value, hours in ((risky, 0.8, 1), (calm, 0.7, 1), (old, 0.1, 1), (stale, 0.9, 25)):
        run(
            database,
            "INSERT INTO score (name, subscriber_id, value, artifact, scored_at)"
            " VALUES ('churn', :id, :v, 'x', now() - make_interval(hours => :h))",
            id=id_,
            v=value,
            h=hours,
        )
    seeds.enroll(database, seeds.sequence(database, BRANCH), ids)
    assert planner.scan().enrollments == 6
    assert ends(database) == {
        many: "many", old: "rest", risky: "risky", calm: "rest", stale: "unknown", none: "unknown",
    }  # fmt: skip
    said = run(database, "SELECT count(*) AS n FROM decision WHERE kind = 'branched'")
    assert said[0].n == 6


def test_an_update_is_written_once_and_what_follows_reads_it(
    database: Database, planner: Planner
) -> None:
    [id_] = seeds.subscribers(database, 1)
    topics(database, "offers")
    run(database, 'UPDATE subscriber SET attributes = \'{"n": 1, "kept": [1]}\'')
    seeds.enroll(database, seeds.sequence(database, UPDATE), [id_])
    planner.scan()
    assert attributes(database, id_) == {"n": 2, "plan": "pro", "kept": [1]}
    assert consents(database, id_) == {
        "offers": (True, "sequence:ways"),
        "news": (False, "sequence:ways"),
    }
    planner.scan()
    assert planner.scan().enrollments == 0
    assert attributes(database, id_)["n"] == 2
    # The branch saw what was set, and consent what was taken away.
    assert ends(database) == {id_: "opted_out"}


def test_two_enrollments_that_count_on_the_same_subscriber_lose_no_count(
    database: Database, planner: Planner
) -> None:
    [id_] = seeds.subscribers(database, 1)
    run(database, "UPDATE subscriber SET attributes = '{\"n\": 0}'")
    for key in ("one", "two"):
        seeds.enroll(database, seeds.sequence(database, UPDATE.replace("ways", key)), [id_])
    planner.scan()
    assert attributes(database, id_)["n"] == 1
    for _ in range(
        2
    ):  # both are due by the same clock: the one that has counted may come first again
        run(database, "UPDATE enrollment SET due_at = now() WHERE due_at IS NOT NULL")
        planner.scan()
    assert attributes(database, id_)["n"] == 2


def test_a_sequence_does_not_take_back_what_a_subscriber_said(database: Database) -> None:
    said, imported, _silent = ids = seeds.subscribers(database, 3)
    topics(database, "news")
    for id_, source in ((said, "unsubscribe"), (imported, "import:list")):
        run(
            database,
            "INSERT INTO consent (subscriber_id, topic, opted_in, source)"
            " VALUES (:id, 'news', false, :s)",
            id=id_,
            s=source,
        )
    with database.transaction() as connection:
        assert update.hold(connection, ids, ids) == set(ids)
        update.write_updates(
            connection,
            [update.SubscriberUpdate(id_, "k", {}, {"news": True, "gone": True}) for id_ in ids],
        )
    assert [consents(database, id_) for id_ in ids] == [
        {"news": (False, "unsubscribe")},
        {"news": (True, "sequence:k")},
        {"news": (True, "sequence:k")},
    ]


@pytest.mark.parametrize(
    "lock",
    [
        "SELECT pg_advisory_xact_lock_shared(:id)",
        "SELECT 1 FROM subscriber WHERE id = :id FOR UPDATE",
    ],
)
def test_a_subscriber_that_somebody_holds_is_not_waited_for(
    database: Database, planner: Planner, lock: str
) -> None:
    held, free = ids = seeds.subscribers(database, 2)
    topics(database, "offers")
    run(database, "UPDATE subscriber SET attributes = '{\"n\": 1}'")
    seeds.enroll(database, seeds.sequence(database, UPDATE), ids)
    with database.transaction() as other:
        other.execute(text(lock), {"id": held})
        planner.scan()
        assert attributes(database, free)["n"] == 2
    assert attributes(database, held)["n"] == 1
    rows = run(
        database,
        "SELECT step_id, due_at > clock_timestamp() - interval '1 min' AS soon FROM enrollment"
        " WHERE subscriber_id = :id AND active",
        id=held,
    )
    assert [tuple(row) for row in rows] == [(None, True)]
    run(database, "UPDATE enrollment SET due_at = now() WHERE due_at IS NOT NULL")
    planner.scan()
    assert attributes(database, held)["n"] == 2


def test_a_stop_that_holds_the_subscriber_and_a_planner_that_holds_the_enrollment_do_not_block(
    database: Database, planner: Planner
) -> None:
    [id_] = seeds.subscribers(database, 1)
    topics(database, "offers")
    seeds.enroll(database, seeds.sequence(database, UPDATE), [id_])
    with database.transaction() as stopping:
        stopping.execute(text("SET LOCAL lock_timeout = '2s'"))
        stopping.execute(
            text("SELECT id FROM subscriber WHERE id = :id FOR NO KEY UPDATE"), {"id": id_}
        )
        planner.scan()  # holds the enrollment, and would wait for the subscriber
        assert stop_subscriber(stopping, id_, "unsubscribe") == (1, 0)
    assert ends(database) == {id_: "unsubscribe"}
    assert attributes(database, id_) == {}


def test_who_did_it_after_entering_leaves_at_the_hand_off_and_nobody_for_what_was_before(
    database: Database, planner: Planner
) -> None:
    after, before, imported, norway, old, stays = ids = seeds.subscribers(database, 6)
    seeds.enroll(database, seeds.sequence(database, EXITS), ids)
    run(database, "UPDATE enrollment SET entered_at = now() - interval '2 d'")
    run(
        database,
        "UPDATE enrollment SET entered_at = now() - interval '46 d' WHERE subscriber_id = :id",
        id=old,
    )
    run(
        database,
        'UPDATE subscriber SET attributes = \'{"country": "NO"}\' WHERE id = :id',
        id=norway,
    )
    buy(database, after, 1, 0.9)
    buy(database, before, 2.5, 2.4)
    buy(database, imported, 200, 0)
    planner.scan()
    assert ends(database) == {
        after: "converted", before: None, imported: None, norway: "norway", old: "expired",
        stays: None,
    }  # fmt: skip
    assert seeds.states(database) == {"scheduled": 3}


def test_a_stored_version_that_makes_no_sense_stops_nobody_else(
    database: Database, planner: Planner
) -> None:
    good, bad = seeds.subscribers(database, 2)
    seeds.enroll(database, seeds.sequence(database, EXITS), [good])
    seeds.enroll(database, seeds.sequence(database, EXITS.replace("ways", "broken")), [bad])
    run(
        database,
        "UPDATE sequence_version SET definition = jsonb_set(definition, '{exit,1,when}', '\"sub.\"')"
        " WHERE sequence_key = 'broken'",
    )
    planner.scan()
    assert seeds.states(database) == {"scheduled": 1}
    kinds = run(database, "SELECT kind FROM decision WHERE subscriber_id = :id", id=bad)
    assert [row.kind for row in kinds] == ["put_off"]
