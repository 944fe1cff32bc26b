"""People come in by themselves: each event once, nothing missed, the surplus in its order."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from models.migrate import downgrade, migrate
from models.session import Database
from schedules.localtime import local
from tasks import names
from tasks.errors import Permanent
from tasks.sequence import cron, crontab, fire, news, own_lines, timetable
from tasks.sequence.enroll import enroll_all
from tasks.sequence.entries import door as stands
from tasks.sequence.explain import explain
from tasks.upkeep.overview import overview
from tests.live.door import PAUSED, Door
from workers.doctor import standing

LATE = (
    "INSERT INTO event (subscriber_id, name, occurred_at)"
    " VALUES (:who, 'paused', clock_timestamp()) RETURNING id"
)


@pytest.fixture
def door(database: Database) -> Door:
    return Door(database, 4)


def test_each_event_lets_somebody_in_once_however_many_act_on_it(database: Database) -> None:
    door = Door(database, 60)
    door.sequence(f"{PAUSED}, reentry: {{policy: concurrent}}")
    for who in door.people:
        door.event(who)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: door.act(), range(8)))
    door.act()
    assert sum(each.events for each in done) == 60
    assert door.entries() == [(who, 1, True) for who in door.people]
    assert door.act().events == 0


def test_an_event_whose_transaction_commits_late_is_not_missed(door: Door) -> None:
    """Its id is smaller than that of one that was acted upon before it could be seen."""
    door.sequence()
    slow, fast = door.people[:2]
    with door.database.transaction() as late:
        first = late.execute(text(LATE), {"who": slow}).scalar_one()
        assert door.event(fast) > first
        door.act()
        assert door.entries() == [(fast, 1, True)]
    door.act()
    assert door.entries() == [(slow, 1, True), (fast, 1, True)]


def test_an_event_that_is_taken_back_lets_nobody_in(door: Door) -> None:
    door.sequence()
    with door.database.transaction() as connection:
        connection.execute(text(LATE), {"who": door.people[0]})
        connection.rollback()
    assert door.act().events == 0 and door.entries() == []


def test_a_crash_between_the_event_and_the_entry_loses_and_doubles_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.sequence()
    door.event(door.people[0])
    with monkeypatch.context() as patch:
        patch.setattr("tasks.sequence.room.refuse", lambda *_: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                door.act()
    assert door.entries() == []
    door.act()
    assert door.entries() == [(door.people[0], 1, True)] and door.waiting() == []


def test_an_event_that_nobody_listens_for_costs_no_row(door: Door) -> None:
    door.sequence()
    door.event(door.people[0], "purchase")
    assert door.run("SELECT FROM event_news") == []


def test_an_event_from_before_the_sequence_was_published_lets_nobody_in(door: Door) -> None:
    door.event(door.people[0])
    door.sequence()
    door.act()
    assert door.entries() == []


def test_an_old_event_is_history_and_that_is_on_record(door: Door) -> None:
    door.sequence("trigger: {event: paused, max_age: 1d}")
    new, old = door.people[:2]
    door.event(new, ago=23 * 3600)
    door.event(old, ago=50 * 3600)
    door.act()
    assert door.entries() == [(new, 1, True)] and door.refused() == {"too_old": 1}
    with door.database.transaction() as connection:
        told = explain(connection, old)
    assert [line.text for line in told.lines] == [
        "did not come in: the event was 2 d old when it came, and may be 1d at most"
    ]


def test_where_says_which_events_are_meant(door: Door) -> None:
    door.sequence("trigger: {event: paused, where: \"event.plan != 'free' and event.mrr >= 9.5\"}")
    pro, free, cheap, mute = door.people
    door.event(pro, plan="pro", mrr=9.5)
    door.event(free, plan="free", mrr=10)
    door.event(cheap, plan="pro", mrr=9.49)
    door.event(mute)
    door.act()
    assert door.entries() == [(pro, 1, True)] and door.refused() == {"where": 1}
    assert len(door.run("SELECT FROM entry_refusal")) == 3


FILTER = (
    f"{PAUSED}, filter: \"sub.country == 'DE' and score('churn', max_age='24h') >= 0.6\","
    " on_stale_score: "
)


def score(door: Door, who: int, value: float, hours_old: float = 1) -> None:
    door.run(
        "INSERT INTO score (name, subscriber_id, value, artifact, scored_at) VALUES ('churn', :who,"
        " :v, 'x', now() - make_interval(secs => :s)) ON CONFLICT (name, subscriber_id) DO UPDATE"
        " SET value = excluded.value, scored_at = excluded.scored_at",
        who=who,
        v=value,
        s=hours_old * 3600,
    )


def all_ask(door: Door) -> None:
    """One who is meant, one who is not, one with an old score, one of another country."""
    meant, calm, stale, abroad = door.people
    door.run(
        'UPDATE subscriber SET attributes = \'{"country"\\: "DE"}\' WHERE id <> :id', id=abroad
    )
    for who, value, hours in ((meant, 0.9, 1), (calm, 0.1, 1), (stale, 0.9, 25)):
        score(door, who, value, hours)
    for who in door.people:
        door.event(who)
    door.act()


def test_the_filter_holds_and_a_stale_score_is_left_out(door: Door) -> None:
    door.sequence(FILTER + "skip")
    all_ask(door)
    assert door.entries() == [(door.people[0], 1, True)]
    rows = door.run("SELECT reason, count(*) FROM entry_refusal GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in rows] == [("filter", 2), ("stale_score", 1)]


def test_a_stale_score_lets_in_where_the_file_says_enter(door: Door) -> None:
    door.sequence(FILTER + "enter")
    all_ask(door)
    assert [who for who, _, _ in door.entries()] == [door.people[0], door.people[2]]


def test_a_stale_score_is_waited_for_as_long_as_the_file_says(door: Door) -> None:
    door.sequence(FILTER + "wait(2h)")
    all_ask(door)
    stale = door.people[2]
    assert door.waiting() == ["stale_score"]
    score(door, stale, 0.7)
    door.again()
    door.act()
    assert (stale, 1, True) in door.entries() and door.waiting() == []
    score(door, stale, 0.7, hours_old=30)
    door.event(door.people[1])
    score(door, door.people[1], 0.7, hours_old=30)
    door.act()
    assert door.waiting() == ["stale_score"]
    door.run("UPDATE entry_request SET asked_at = asked_at - interval '2 hours'")
    door.again()
    door.act()
    assert door.waiting() == [] and len(door.entries()) == 2


def test_who_was_stopped_suppressed_or_opted_out_does_not_come_in(door: Door) -> None:
    door.sequence()
    stopped, suppressed, out = door.people[:3]
    door.run("UPDATE consent SET opted_in = false WHERE subscriber_id = :id", id=out)
    door.run("UPDATE subscriber SET stopped_at = now(), stopped_reason = 'unsubscribe' WHERE id = :id",
             id=stopped)  # fmt: skip
    door.run(
        "INSERT INTO suppression SELECT address_hmac, 'all', 'hard_bounce', now() FROM subscriber"
        " WHERE id = :id",
        id=suppressed,
    )
    for who in (stopped, suppressed, out):
        door.event(who)
    door.act()
    assert door.entries() == []
    why = "SELECT subscriber_id, reason, detail ->> 'why' AS why FROM entry_refusal ORDER BY 1"
    assert [tuple(row) for row in door.run(why)] == [
        (stopped, "stopped", "unsubscribe"),
        (suppressed, "suppressed", "hard_bounce"),
        (out, "suppressed", "opted_out"),
    ]


def test_at_most_so_many_are_in_at_a_time_and_the_others_come_in_their_order(door: Door) -> None:
    door.sequence(f"{PAUSED}, admission: {{max_active: 2}}")
    order = [door.people[n] for n in (2, 0, 3, 1)]
    for who in order:
        door.event(who)
        door.act()
    assert {who for who, _, _ in door.entries()} == set(order[:2])
    with door.database.transaction() as connection:
        told = explain(connection, order[3])
        now = stands(connection, "door")
    assert told.next[-1].endswith("waits its turn behind 1 others: at most 2 at a time")
    assert now.active == 2 and now.waiting == {"turn": 2} and now.by == "event paused"
    door.leave(order[0])
    door.act()
    assert {who for who, _, _ in door.entries()} == set(order[:3])
    door.leave(order[1])
    door.leave(order[2])
    door.act()
    assert {who for who, _, _ in door.entries()} == set(order) and door.waiting() == []


def test_a_rate_lets_them_in_evenly_and_a_minutes_share_at_once(database: Database) -> None:
    door = Door(database, 40)
    door.sequence(f"{PAUSED}, admission: {{rate: 600/h}}")
    for who in door.people:
        door.event(who)
    door.act()
    # The first one comes at once; a place is there every six seconds from then on.
    first = len(door.entries())
    assert 1 <= first <= 2

    def later(seconds: float) -> int:
        door.run("UPDATE entry_state SET paced_until = paced_until - make_interval(secs => :s)",
                 s=seconds)  # fmt: skip
        before = len(door.entries())
        door.act()
        return len(door.entries()) - before

    assert 3 <= later(18) <= 4
    # Whatever time has passed, no more than a minute's share, ten, come at once.
    assert 10 <= later(86_400) <= 11
    assert [who for who, _, _ in door.entries()] == door.people[: len(door.entries())]


def test_nobody_comes_into_a_paused_sequence_and_nobody_is_lost_for_it(door: Door) -> None:
    """R11."""
    key = door.sequence()
    door.run("UPDATE sequence SET paused_at = now(), pause_reason = 'why'")
    door.event(door.people[0])
    door.act()
    with door.database.transaction() as connection:
        told = explain(connection, door.people[0])
    assert told.next[-1].endswith("waits, since the sequence is paused")
    assert door.entries() == [] and len(door.waiting()) == 1
    door.run("UPDATE sequence SET paused_at = NULL, pause_reason = NULL")
    door.act()
    assert door.entries(key) == [(door.people[0], 1, True)]


def test_a_new_version_lets_in_by_its_own_trigger(door: Door) -> None:
    door.sequence()
    door.run(
        "INSERT INTO sequence_version SELECT sequence_key, 2,"
        " jsonb_set(definition, '{entry,trigger,event}', '\"cancelled\"'), source, sha256"
        " FROM sequence_version"
    )
    door.run("UPDATE sequence SET version = 2")
    door.event(door.people[0], "paused")
    door.event(door.people[1], "cancelled")
    door.act()
    rows = door.run("SELECT subscriber_id, sequence_version FROM enrollment")
    assert [tuple(row) for row in rows] == [(door.people[1], 2)]


def test_a_version_that_makes_no_sense_keeps_nobody_else_waiting(door: Door) -> None:
    door.sequence(key="broken")
    door.sequence(key="sound")
    door.run("UPDATE sequence_version SET definition = jsonb_set(definition, '{schema}', '9')"
             " WHERE sequence_key = 'broken'")  # fmt: skip
    door.event(door.people[0])
    door.act()
    assert door.entries("sound") == [(door.people[0], 1, True)] and door.entries("broken") == []


def test_by_hand_nobody_comes_where_the_trigger_alone_lets_in(door: Door) -> None:
    door.sequence()
    with pytest.raises(Permanent, match="takes people by its trigger alone"):
        enroll_all(door.database, "door")
    door.sequence(f"{PAUSED}, manual: true", key="both")
    assert enroll_all(door.database, "both").enrolled == 4


# R4, for the cron line that a sequence holds itself. Due every fourth year, and when a test says so.
WEEKLY = 'trigger: {schedule: "0 9 29 2 *", audience: "sub.vip == true"}'


def due(door: Door, ago: str) -> dt.datetime:
    own_lines.sync(door.database)
    [row] = door.run("SELECT clock_timestamp() - CAST(:ago AS interval) AS at", ago=ago)
    door.run("UPDATE schedule SET next_fire_at = :at, next_wall = :wall", at=row.at,
             wall=local(row.at, "UTC"))  # fmt: skip
    at: dt.datetime = row.at
    return at


def fires(door: Door) -> list[tuple[Any, ...]]:
    cron.look(door.database)
    fire.work(door.database, budget=30, ring=lambda _: False)
    rows = door.run("SELECT state, detail ->> 'reason' FROM schedule_fire ORDER BY fire_at")
    return [tuple(row) for row in rows]


def some_are(door: Door, *people: int) -> None:
    door.run("UPDATE subscriber SET attributes = '{\"vip\"\\: true}' WHERE id = ANY(:ids)",
             ids=list(people))  # fmt: skip


def test_a_fire_of_its_own_line_lets_the_audience_in_once_over_the_fleet(door: Door) -> None:
    door.sequence(WEEKLY)
    some_are(door, *door.people[:2])
    due(door, "5 seconds")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: own_lines.sync(door.database), range(4)))
        looked = list(pool.map(lambda _: cron.look(door.database), range(8)))
    assert sum(each.claimed for each in looked) == 1
    assert fires(door) == [("done", None)]
    assert door.entries() == [(who, 1, True) for who in door.people[:2]]


def test_after_downtime_the_latest_fire_runs_and_what_is_too_old_is_on_record_as_missed(
    door: Door,
) -> None:
    door.sequence(WEEKLY.replace("0 9 29 2 *", "*/30 * * * *"), "catch_up: {max_lateness: 6h}")
    some_are(door, door.people[0])
    due(door, "7 hours")
    states = fires(door)
    assert states[0] == ("missed", "too_late") and states[-1] == ("done", None)
    assert set(states[1:-1]) <= {("missed", "superseded"), ("missed", "too_late")}


def test_after_downtime_no_fire_runs_where_the_file_says_skip(door: Door) -> None:
    door.sequence(WEEKLY, "catch_up: {fires: skip}")
    due(door, "1 hour")
    assert fires(door) == [("missed", "skipped")] and door.entries() == []


def test_its_rules_judge_those_whom_a_fire_brings(door: Door) -> None:
    door.sequence(
        f"{WEEKLY}, reentry: {{policy: after_exit, cooldown: 30d}}, admission: {{max_active: 2}}"
    )
    some_are(door, *door.people[:3])
    due(door, "5 seconds")
    assert fires(door) == [("done", None)]
    assert len(door.entries()) == 2 and len(door.waiting()) == 1
    [row] = door.run("SELECT detail FROM schedule_fire")
    assert (row.detail["enrolled"], row.detail["waiting"]) == (2, 1)
    with door.database.transaction() as connection:
        [line] = timetable.listed(connection)
    assert line.key == "sequence:door" and line.entered == 2


def test_a_line_goes_with_the_version_that_holds_it_and_no_file_takes_it_away(door: Door) -> None:
    from schedules.cron import reads

    door.sequence(WEEKLY)
    assert own_lines.sync(door.database) == 1 and own_lines.sync(door.database) == 0
    with door.database.transaction() as connection:
        assert crontab.apply(connection, reads("schedules: []\n", "cron.yaml")) == []
    [row] = door.run("SELECT key, next_fire_at FROM schedule")
    assert row.key == "sequence:door"
    change = (
        "INSERT INTO sequence_version SELECT sequence_key, version + 1, {}, source, sha256,"
        " created_at FROM sequence_version ORDER BY version DESC LIMIT 1"
    )
    # The time is kept where the line says the same.
    door.run(change.format("jsonb_set(definition, '{entry,trigger,audience}', '\"all\"')"))
    door.run("UPDATE sequence SET version = 2")
    due_at = row.next_fire_at
    assert own_lines.sync(door.database) == 1
    [row] = door.run("SELECT next_fire_at, target FROM schedule")
    assert row.next_fire_at == due_at and row.target["audience"] == "all"
    door.run(change.format("jsonb_set(definition, '{entry}', '{\"manual\"\\: true}')"))
    door.run("UPDATE sequence SET version = 3")
    own_lines.sync(door.database)
    assert door.run("SELECT FROM schedule") == []


EDGE = (
    "INSERT INTO segment_edge (segment, subscriber_id, join_no, edge, cause)"
    " VALUES ('lapsed', {0}, 1, '{1}', '{2}')"
)


def test_who_joins_a_segment_comes_in_once_an_edge(door: Door) -> None:
    before, joined, left, defined = door.people
    door.run(EDGE.format(before, "join", "event"))
    door.sequence("trigger: {segment: lapsed, edge: join}, reentry: {policy: concurrent}")
    with door.database.transaction() as connection:
        assert not news.waiting(connection)
    door.run(EDGE.format(joined, "join", "event"))
    door.run(EDGE.format(left, "leave", "event"))
    door.run(EDGE.format(defined, "join", "definition"))
    with door.database.transaction() as connection:
        assert news.waiting(connection)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: door.act(), range(6)))
    assert door.entries() == [(joined, 1, True)] and door.refused() == {"definition": 1}
    with door.database.transaction() as connection:
        assert not news.waiting(connection)


def test_the_older_schema_takes_the_door_away_and_the_newer_one_finds_what_listens(
    door: Door,
) -> None:
    door.sequence(WEEKLY)
    own_lines.sync(door.database)
    downgrade(door.database, "0006")
    assert door.run("SELECT FROM schedule") == []
    migrate(door.database)
    assert own_lines.sync(door.database) == 1


def test_who_asks_is_counted_and_who_waits_for_nobody_knows_what_is_a_finding(door: Door) -> None:
    door.sequence()
    door.sequence(f"{PAUSED}, admission: {{max_active: 1}}", key="narrow")
    for who in door.people:
        door.event(who)
    door.act()
    with door.database.transaction() as connection:
        asking = {each.key: each.asking for each in overview(connection).sequences}
        assert asking == {"door": 0, "narrow": 3}
        # Waiting for a place is no fault, however long.
        connection.execute(text("UPDATE entry_request SET look_at = now() - interval '1 day'"))
        assert [found.severity for found in standing.entries(connection)] == ["fine"]
    door.event(door.people[0], late=86_400)
    with door.database.transaction() as connection:
        [found] = standing.entries(connection)
    assert found.severity == "error" and "waits for 1 d" in found.says


def test_the_task_of_the_door_has_the_sequence_pool() -> None:
    assert names.POOL_OF[names.ENTER] == "sequence"
