"""Events, other zones and pauses through real rows: who waits is moved, whoever holds it meanwhile."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from models.session import Database
from schedules.localtime import TZDATA_VERSION, resolve
from tasks.moves import pause
from tasks.moves.settings import DeliverySettings, IdentitySettings
from tasks.sequence import meanwhile, outbox
from tasks.sequence.store import Planner
from tasks.upkeep.reap import reap
from tests.live import seeds
from workers.doctor import standing

HEAD = """
key: waits
title: Waits
class: marketing
topic: news
timezone: {source: subscriber, fallback: UTC}
entry: {manual: true}
"""
CLICK = (
    HEAD
    + """
steps:
  - {id: hello, send: {template: test/mail}}
  - id: click
    wait: {until_event: email.clicked, of: hello, ignore_bots: true, timeout: 3d}
    paths: {event: thanks, timeout: nothing}
  - {id: nothing, exit: {reason: nothing}}
  - {id: thanks, exit: {reason: thanked}}
"""
)
BUY = (
    HEAD
    + """
steps:
  - {id: buy, wait: {until_event: purchase, timeout: 3d}}
  - {id: end, exit: {reason: bought}}
"""
)
MORNING = (
    HEAD
    + """
steps:
  - {id: morning, wait: {calendar_days: 2, at: "09:30"}}
  - {id: mail, send: {template: test/mail}}
"""
)
FROZEN = (
    HEAD
    + """
pause: {clock: freeze}
steps:
  - {id: mail, send: {template: test/mail}}
  - {id: wait, wait: {delay: 1h}}
  - {id: end, exit: {reason: done}}
"""
)
HOOK = (
    HEAD
    + """
steps:
  - {id: tell, webhook: {to: crm, fields: [first_name, plan]}}
  - {id: end, exit: {reason: done}}
"""
)


@pytest.fixture
def planner(database: Database, monkeypatch: pytest.MonkeyPatch) -> Planner:
    monkeypatch.setattr(meanwhile, "_current", False)
    secret = SecretStr("a secret of the tests")
    return Planner(database, IdentitySettings(secret_message_id=secret), dt.timedelta(days=3))


def run(database: Database, sql: str, **parameters: Any) -> Any:
    with database.transaction() as connection:
        result = connection.execute(text(sql), parameters)
        return result.all() if result.returns_rows else None


def enter(database: Database, source: str, n: int = 1) -> list[int]:
    ids = seeds.subscribers(database, n)
    seeds.enroll(database, seeds.sequence(database, source), ids)
    return ids


def scan(planner: Planner) -> None:
    planner.meanwhile()
    while planner.scan().enrollments:
        pass


def sent(database: Database) -> None:
    """The mail of everybody went."""
    run(
        database,
        "UPDATE message SET state = 'sent', run_at = NULL, terminal_at = clock_timestamp(),"
        " armed_at = clock_timestamp() WHERE state = 'scheduled'",
    )
    run(
        database, "UPDATE enrollment SET due_at = clock_timestamp() WHERE due_at IS NULL AND active"
    )


def event(database: Database, id_: int, name: str, **properties: Any) -> None:
    run(
        database,
        "INSERT INTO event (subscriber_id, name, occurred_at, properties)"
        " VALUES (:id, :name, clock_timestamp(), CAST(:p AS jsonb))",
        id=id_,
        name=name,
        p=json.dumps(properties),
    )


def ends(database: Database) -> list[str | None]:
    return [r[0] for r in run(database, "SELECT end_reason FROM enrollment ORDER BY subscriber_id")]


def test_an_event_moves_who_waits_for_it_within_one_scan_and_nobody_else(
    database: Database, planner: Planner
) -> None:
    clicked, bot, other, silent = enter(database, CLICK, 4)
    scan(planner)
    sent(database)
    scan(planner)
    assert ends(database) == [None] * 4
    mail = {"sequence": "waits", "step": "hello"}
    event(database, clicked, "email.clicked", **mail)
    event(database, clicked, "email.clicked", **mail)
    event(database, bot, "email.clicked", **mail, machine=True)
    event(database, other, "email.clicked", sequence="waits", step="another")
    event(database, silent, "email.opened", **mail)
    scan(planner)
    assert ends(database) == ["thanked", None, None, None]
    assert run(database, "SELECT count(*) FROM event_wake")[0][0] == 0
    # They wait on for as long as they would have.
    rows = run(
        database, "SELECT due_at - step_started_at > '2 d 23 h' FROM enrollment WHERE active"
    )
    assert [row[0] for row in rows] == [True] * 3
    run(
        database,
        "UPDATE enrollment SET due_at = clock_timestamp(), wait_rule = wait_rule ||"
        " jsonb_build_object('until', clock_timestamp()) WHERE active",
    )
    scan(planner)
    assert ends(database) == ["thanked", "nothing", "nothing", "nothing"]


def test_a_click_that_came_before_its_wait_began_counts(
    database: Database, planner: Planner
) -> None:
    (id_,) = enter(database, CLICK)
    scan(planner)
    event(database, id_, "email.clicked", sequence="waits", step="hello")
    sent(database)
    scan(planner)
    assert ends(database) == ["thanked"]


def test_an_event_from_before_the_wait_is_not_the_one_that_is_waited_for(
    database: Database, planner: Planner
) -> None:
    (id_,) = enter(database, BUY)
    event(database, id_, "purchase")
    scan(planner)
    planner.meanwhile()
    scan(planner)
    assert ends(database) == [None]
    event(database, id_, "purchase")
    scan(planner)
    assert ends(database) == ["bought"]


def test_an_event_of_somebody_who_is_held_waits_until_they_are_free(
    database: Database, planner: Planner
) -> None:
    (id_,) = enter(database, BUY)
    scan(planner)
    with database.transaction() as holding:
        holding.execute(text("SELECT 1 FROM enrollment FOR UPDATE"))
        event(database, id_, "purchase")
        assert planner.meanwhile() == 0
    assert planner.meanwhile() == 1
    scan(planner)
    assert ends(database) == ["bought"]


def test_events_that_no_sequence_waits_for_are_not_looked_at(database: Database) -> None:
    (id_,) = enter(database, BUY)
    event(database, id_, "page.viewed")
    assert run(database, "SELECT count(*) FROM event_wake")[0][0] == 0


def waiting(database: Database, id_: int) -> tuple[dt.datetime, str, str]:
    row = run(
        database,
        "SELECT due_at, wait_rule ->> 'zone' AS zone, wait_rule ->> 'wall' AS wall"
        " FROM enrollment WHERE subscriber_id = :id",
        id=id_,
    )[0]
    return row.due_at, row.zone, row.wall


def test_a_pending_wait_follows_a_changed_zone_and_an_elapsed_one_stays(
    database: Database, planner: Planner
) -> None:
    moved, elapsed, same, lost = enter(database, MORNING, 4)
    scan(planner)
    before = {id_: waiting(database, id_) for id_ in (moved, elapsed, same, lost)}
    run(
        database,
        "UPDATE enrollment SET due_at = clock_timestamp() - interval '1 s'"
        " WHERE subscriber_id = :id",
        id=elapsed,
    )
    past = waiting(database, elapsed)[0]
    run(
        database,
        "UPDATE subscriber SET zone = CASE id WHEN :lost THEN 'Mars/Olympus'"
        " ELSE 'America/New_York' END WHERE id IN (:moved, :elapsed, :lost)",
        moved=moved,
        elapsed=elapsed,
        lost=lost,
    )
    run(database, "UPDATE subscriber SET first_name = 'X'")
    assert planner.meanwhile() == 2
    wall = dt.datetime.fromisoformat(before[moved][2])
    assert waiting(database, moved) == (
        resolve(wall, "America/New_York"),
        "America/New_York",
        before[moved][2],
    )
    assert waiting(database, elapsed)[0] == past
    assert waiting(database, same) == before[same]
    assert waiting(database, lost)[:2] == (resolve(wall, "UTC"), "UTC")
    said = run(
        database,
        "SELECT subscriber_id, kind, reason FROM decision"
        " WHERE kind IN ('retimed', 'zone_fallback') ORDER BY subscriber_id, id",
    )
    assert [tuple(row) for row in said] == [
        (moved, "retimed", "zone"),
        (lost, "zone_fallback", "unknown"),
        (lost, "retimed", "zone"),
    ]
    assert planner.meanwhile() == 0
    assert run(database, "SELECT count(*) FROM zone_change")[0][0] == 0


def test_who_is_planned_while_their_zone_changes_is_looked_at_again(
    database: Database, planner: Planner
) -> None:
    (id_,) = enter(database, MORNING)
    scan(planner)
    with database.transaction() as holding:
        holding.execute(text("SELECT 1 FROM enrollment FOR UPDATE"))
        run(database, "UPDATE subscriber SET zone = 'Asia/Tokyo'")
        assert planner.meanwhile() == 0
    assert planner.meanwhile() == 1
    assert waiting(database, id_)[1] == "Asia/Tokyo"


def test_new_zone_data_resolves_pending_waits_again_once_and_goes_on_where_it_ended(
    database: Database, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = enter(database, MORNING, 5)
    scan(planner)
    right = waiting(database, ids[0])[0]
    # As the data of another year had it: an hour off.
    run(
        database,
        "UPDATE enrollment SET due_at = due_at + interval '1 h',"
        """ wait_rule = wait_rule || '{"tzdata"\\: "2019a"}'""",
    )
    run(database, "UPDATE zone_data SET version = '2019a', after_id = 0")
    monkeypatch.setattr(meanwhile, "_current", False)
    definition = planner._definition
    with database.transaction() as connection:
        assert meanwhile.zone_data(connection, definition, 2) == (2, True)
    assert planner.meanwhile() == 3
    assert {waiting(database, id_)[0] for id_ in ids} == {right}
    assert run(database, "SELECT version FROM zone_data")[0][0] == TZDATA_VERSION
    # A worker of an older release leaves it alone.
    run(database, "UPDATE zone_data SET version = '9999z'")
    monkeypatch.setattr(meanwhile, "_current", False)
    assert planner.meanwhile() == 0
    assert run(database, "SELECT version FROM zone_data")[0][0] == "9999z"


def shut(database: Database) -> None:
    with database.transaction() as connection:
        pause.pause(connection, "waits", "a test")


def past(database: Database, hours: int) -> None:
    """The pause began so long ago, and all that was before it before that."""
    shift = f"interval '{hours} h'"
    for statement in (
        f"UPDATE sequence SET paused_at = paused_at - {shift}",
        f"UPDATE enrollment SET entered_at = entered_at - {shift},"
        f" step_started_at = step_started_at - {shift},"
        f" due_at = CASE WHEN due_at < 'infinity' THEN due_at - {shift} ELSE due_at END,"
        f" parked_from = parked_from - {shift}",
        f"UPDATE message SET created_at = created_at - {shift}, expires_at = expires_at - {shift},"
        f" run_at = CASE WHEN run_at < 'infinity' THEN run_at - {shift} ELSE run_at END",
    ):
        run(database, statement)


def resume(database: Database) -> None:
    with database.transaction() as connection:
        pause.resume(connection, "waits")
    with database.transaction() as connection:
        pause.wake(connection)


def test_a_frozen_pause_makes_waits_longer_exits_nobody_and_never_stands_in_the_way(
    database: Database, planner: Planner
) -> None:
    enter(database, FROZEN)
    scan(planner)
    sent(database)
    scan(planner)  # in the wait of an hour
    shut(database)
    past(database, 5)
    scan(planner)
    ((due, held, ended),) = run(
        database,
        "SELECT due_at = 'infinity', parked_from, end_reason FROM enrollment",
    )
    assert (due, ended) == (True, None)
    assert held is not None
    assert planner.scan().enrollments == 0
    resume(database)
    scan(planner)
    ((minutes, ended),) = run(
        database,
        "SELECT extract(epoch FROM due_at - clock_timestamp()) / 60, end_reason FROM enrollment",
    )
    assert ended is None
    assert 58 < minutes <= 60
    ((span,),) = run(
        database, "SELECT extract(epoch FROM resumed_at - paused_at) / 3600 FROM sequence_pause"
    )
    assert 4.9 < span < 5.1


def test_who_is_held_while_their_zone_changes_is_woken_by_the_clocks_of_the_new_one(
    database: Database, planner: Planner
) -> None:
    frozen = MORNING.replace("steps:", "pause: {clock: freeze}\nsteps:")
    (id_,) = enter(database, frozen)
    scan(planner)
    shut(database)
    past(database, 5)
    run(database, "UPDATE enrollment SET due_at = clock_timestamp()")
    scan(planner)
    assert run(database, "SELECT parked_from IS NOT NULL FROM enrollment")[0][0]
    run(database, "UPDATE subscriber SET zone = 'Asia/Tokyo'")
    assert planner.meanwhile() == 0
    assert run(database, "SELECT count(*) FROM zone_change")[0][0] == 0
    resume(database)
    scan(planner)
    due, zone, wall = waiting(database, id_)
    assert zone == "Asia/Tokyo"
    assert wall.endswith("T09:30:00")
    assert due == resolve(dt.datetime.fromisoformat(wall), "Asia/Tokyo")
    assert due > dt.datetime.now(dt.UTC) + dt.timedelta(hours=4)


def test_a_frozen_pause_does_not_count_against_the_life_of_a_mail(
    database: Database, planner: Planner
) -> None:
    enter(database, FROZEN)
    scan(planner)
    shut(database)
    past(database, 100)
    with database.transaction() as connection:
        assert pause.park(connection) == 1
    resume(database)
    ((left, allowed, parked),) = run(
        database,
        "SELECT extract(epoch FROM expires_at - clock_timestamp()) / 3600,"
        " allowed @> clock_timestamp() + interval '71 h', parked_from FROM message",
    )
    assert 71.9 < left <= 72
    assert allowed
    assert parked is None


def test_a_pause_whose_clock_runs_leaves_the_due_time_alone(
    database: Database, planner: Planner
) -> None:
    enter(database, FROZEN.replace("freeze", "run"))
    scan(planner)
    sent(database)
    scan(planner)
    shut(database)
    past(database, 5)
    resume(database)
    scan(planner)
    assert ends(database) == ["done"]


def test_what_a_race_left_parked_in_a_sequence_that_runs_is_woken_by_the_reaper(
    database: Database, planner: Planner
) -> None:
    enter(database, FROZEN)
    shut(database)
    scan(planner)
    with database.transaction() as connection:
        pause.resume(connection, "waits")  # and nobody wakes
    assert planner.scan().enrollments == 0
    assert reap(database, DeliverySettings())["woken"] == 1
    scan(planner)
    assert run(database, "SELECT count(*) FROM message")[0][0] == 1


def test_a_webhook_waits_in_the_outbox_once_and_doctor_says_so(
    database: Database, planner: Planner
) -> None:
    ids = enter(database, HOOK, 2)
    run(database, """UPDATE subscriber SET attributes = '{"plan"\\: "pro", "card"\\: "4111"}'""")
    scan(planner)
    assert ends(database) == ["done", "done"]
    rows = run(
        database,
        "SELECT subscriber_id, target, payload, octet_length(effect_key) AS n FROM webhook_outbox"
        " ORDER BY subscriber_id",
    )
    assert [(row.subscriber_id, row.target, row.n) for row in rows] == [
        (id_, "crm", 32) for id_ in ids
    ]
    payload = rows[0].payload
    assert payload["fields"] == {"first_name": "Zoë", "plan": "pro"}
    assert (payload["sequence"], payload["step"], payload["entry"]) == ("waits", "tell", 1)
    # The same step of the same entry again, as after an operator's repair: still one call.
    run(
        database,
        "UPDATE enrollment SET active = true, ended_at = NULL, end_reason = NULL, step_id = NULL,"
        " step_started_at = NULL, due_at = clock_timestamp()",
    )
    scan(planner)
    with database.transaction() as connection:
        (found,) = outbox.waiting(connection)
        (said,) = standing.webhooks(connection)
    assert (found.target, found.n) == ("crm", 2)
    assert (said.check, said.severity) == ("webhooks to crm", "warning")
    assert "2 calls wait in the outbox" in said.says
    run(database, "UPDATE webhook_outbox SET delivered_at = clock_timestamp()")
    with database.transaction() as connection:
        assert list(standing.webhooks(connection)) == []
