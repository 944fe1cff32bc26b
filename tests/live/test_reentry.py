"""R7, sentence by sentence: who comes in again, when, how often, and who never twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.sequence.enroll import enroll_all
from tasks.sequence.explain import explain
from tests.live.door import PAUSED, Door
from tests.live.fleet import eventually


@pytest.fixture
def door(database: Database) -> Door:
    return Door(database, 3)


def reentry(policy: str, **rules: object) -> str:
    said = ", ".join([f"policy: {policy}", *(f"{k}: {v}" for k, v in rules.items())])
    return f"{PAUSED}, reentry: {{{said}}}"


def test_never_means_once(door: Door) -> None:
    door.sequence(reentry("never"))
    one = door.people[0]
    door.event(one)
    door.act()
    door.leave(one, days_ago=400)
    door.event(one)
    door.act()
    assert door.entries() == [(one, 1, False)]
    assert door.refused() == {"already_entered": 1}


def test_after_exit_means_again_but_not_while_somebody_is_in(door: Door) -> None:
    door.sequence(reentry("after_exit"))
    one = door.people[0]
    for _ in range(2):
        door.event(one)
        door.act()
    assert door.entries() == [(one, 1, True)] and door.refused() == {"active": 1}
    door.leave(one)
    door.event(one)
    door.act()
    assert door.entries() == [(one, 1, False), (one, 2, True)]


def test_concurrent_means_side_by_side(door: Door) -> None:
    door.sequence(reentry("concurrent"))
    one = door.people[0]
    for _ in range(3):
        door.event(one)
    door.act()
    assert door.entries() == [(one, 1, True), (one, 2, True), (one, 3, True)]


def test_the_cooldown_counts_from_the_exit(door: Door) -> None:
    door.sequence(reentry("after_exit", cooldown="90d"))
    early, late = door.people[:2]
    for who in (early, late):
        door.event(who)
    door.act()
    # Both entered at the same time, a year ago; what counts is when they left.
    door.run("UPDATE enrollment SET entered_at = now() - interval '1 year',"
             " triggered_at = now() - interval '1 year'")  # fmt: skip
    door.leave(early, days_ago=89)
    door.leave(late, days_ago=91)
    for who in (early, late):
        door.event(who)
    door.act()
    assert door.entries() == [(early, 1, False), (late, 1, False), (late, 2, True)]
    assert door.refused() == {"cooldown": 1}


def test_max_entries_is_the_most_there_is(door: Door) -> None:
    door.sequence(reentry("after_exit", max_entries=2))
    one = door.people[0]
    for _ in range(3):
        door.event(one)
        door.act()
        door.leave(one)
    assert len(door.entries()) == 2 and door.refused() == {"max_entries": 1}


def test_while_active_restart_ends_the_present_entry_and_calls_its_mail_back(door: Door) -> None:
    door.sequence(reentry("after_exit", while_active="restart"))
    one = door.people[0]
    door.event(one)
    door.act()
    door.plan()
    door.event(one)
    door.act()
    door.plan()
    assert door.entries() == [(one, 1, False), (one, 2, True)]
    rows = door.run("SELECT entry_no, state::text, reason FROM message ORDER BY id")
    assert [tuple(row) for row in rows] == [(1, "cancelled", "restarted"), (2, "scheduled", None)]
    ends = door.run("SELECT end_reason FROM enrollment WHERE NOT active")
    assert [row.end_reason for row in ends] == ["restarted"]


def test_while_active_queue_one_waits_for_the_exit_with_one_entry_and_its_cooldown(
    door: Door,
) -> None:
    door.sequence(reentry("after_exit", while_active="queue_one", cooldown="1d"))
    one = door.people[0]
    for _ in range(3):
        door.event(one)
        door.act()
    assert door.waiting() == ["active"] and door.refused() == {"queued": 1}
    door.leave(one)
    door.again()
    door.act()
    assert door.waiting() == ["cooldown"] and door.entries() == [(one, 1, False)]
    door.run("UPDATE enrollment SET ended_at = ended_at - interval '1 day'")
    door.again()
    door.act()
    assert door.entries() == [(one, 1, False), (one, 2, True)] and door.waiting() == []


def test_two_that_come_at_once_are_two_and_the_second_is_judged_by_the_first(door: Door) -> None:
    door.sequence(reentry("after_exit", while_active="queue_one"))
    one = door.people[0]
    for _ in range(3):
        door.event(one)
    door.act()
    assert door.entries() == [(one, 1, True)]
    assert door.waiting() == ["active"] and door.refused() == {"queued": 1}


def test_the_same_dedupe_key_never_enters_twice(door: Door) -> None:
    door.sequence(f'{PAUSED}, dedupe_key: "event.pause_id", reentry: {{policy: concurrent}}')
    one, two = door.people[:2]
    for pause in (7, 7, 7.0, "7", 8):
        door.event(one, pause_id=pause)
    door.act()
    assert len(door.entries()) == 2 and door.refused() == {"duplicate": 3}
    # Not of somebody else either, nor once they have left.
    door.leave(one, days_ago=400)
    door.event(two, pause_id=8)
    door.event(one, pause_id=7)
    door.act()
    assert len(door.entries()) == 2


def test_postgres_itself_holds_a_dedupe_key_to_one_entry(door: Door) -> None:
    door.sequence(f'{PAUSED}, dedupe_key: "event.pause_id", reentry: {{policy: concurrent}}')
    door.event(door.people[0], pause_id="a")
    door.act()
    done = door.run(
        "INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, dedupe_key)"
        " VALUES ('door', 1, :who, 'a') ON CONFLICT DO NOTHING RETURNING id",
        who=door.people[1],
    )
    assert done == []


def test_who_has_no_value_for_the_dedupe_key_does_not_come_in_and_that_is_said(door: Door) -> None:
    door.sequence(f'{PAUSED}, dedupe_key: "event.pause_id"')
    door.event(door.people[0])
    door.act()
    assert door.entries() == [] and door.refused() == {"no_dedupe_key": 1}


def test_an_event_that_comes_late_does_not_restart_what_a_later_one_began(door: Door) -> None:
    door.sequence(reentry("after_exit", while_active="restart"))
    one = door.people[0]
    door.event(one, ago=60)
    door.act()
    door.event(one, ago=120)
    door.act()
    assert door.entries() == [(one, 1, True)] and door.refused() == {"older_event": 1}


def test_the_rules_hold_for_those_who_are_enrolled_by_hand_too(door: Door) -> None:
    key = door.sequence("manual: true, reentry: {policy: after_exit, cooldown: 30d}")
    assert enroll_all(door.database, key).enrolled == 3
    again = enroll_all(door.database, key)
    assert (again.enrolled, again.already_enrolled) == (0, 3)
    fresh, old = door.people[:2]
    door.leave(fresh, days_ago=1)
    door.leave(old, days_ago=31)
    again = enroll_all(door.database, key)
    assert (again.enrolled, again.already_enrolled, again.refused) == (1, 1, 1)
    assert again.looked_at == 3


def test_why_somebody_did_not_come_in_is_told_in_plain_words(door: Door) -> None:
    door.sequence(reentry("after_exit", cooldown="90d"))
    one = door.people[0]
    door.event(one)
    door.act()
    door.leave(one, days_ago=1)
    for _ in range(2):
        door.event(one)
        door.act()
    with door.database.transaction() as connection:
        told = explain(connection, one, "door")
    said = [line.text for line in told.lines if "did not come in" in line.text]
    assert len(said) == 1
    assert said[0].startswith(
        "did not come in: left it too short a time ago; may enter again from 20"
    )
    assert "(2 times since" in said[0]


def test_a_hand_that_enrolls_at_the_same_moment_was_first(door: Door) -> None:
    door.sequence()
    one = door.people[0]
    door.event(one)
    with ThreadPoolExecutor(1) as pool, door.database.transaction() as hand:
        hand.execute(
            text(
                "INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, due_at)"
                " VALUES ('door', 1, :id, now())"
            ),
            {"id": one},
        )
        # It cannot be seen yet: the unique key is what the entry by the event runs into.
        acting = pool.submit(door.act)
        eventually(lambda: bool(door.run("SELECT FROM pg_locks WHERE NOT granted")))
        hand.commit()
        acting.result(30)
    assert door.entries() == [(one, 1, True)] and door.refused() == {"already_entered": 1}
