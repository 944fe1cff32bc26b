"""R12 and the holdout: what counts as a conversion, when it acts, and that both arms are counted alike."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

import pytest
from sqlalchemy import text

from models.session import Database
from schedules.goal import Holdout
from tasks.experiment.intervals import newcombe
from tasks.sequence.enroll import enroll_all
from tasks.sequence.explain import explain
from tasks.sequence.lift import Lift
from tasks.sequence.report import HELD_OUT, parameters, report
from tasks.sequence.report_page import page
from tests.live.door import Door
from workers.cli.render import plain

EXIT = "exit: [{event: purchase, reason: converted}]"
GOAL = "goal: {event: purchase, window: 21d, value: event.amount}"


@pytest.fixture
def door(database: Database) -> Door:
    return Door(database, 4)


def ends(door: Door) -> dict[int, str | None]:
    rows = door.run("SELECT subscriber_id, end_reason FROM enrollment ORDER BY id")
    return {row.subscriber_id: row.end_reason for row in rows}


def states(door: Door) -> list[str]:
    return [row.state for row in door.run("SELECT state::text AS state FROM message ORDER BY id")]


def conversions(door: Door) -> list[tuple[int, Any]]:
    rows = door.run("SELECT subscriber_id, value FROM conversion ORDER BY subscriber_id")
    return [tuple(row) for row in rows]


def by_hand(door: Door, more: str, minutes_ago: float = 60) -> None:
    """Everybody is in, and entered that long ago."""
    enroll_all(door.database, door.sequence("manual: true", more))
    door.run("UPDATE enrollment SET entered_at = now() - make_interval(secs => :s)",
             s=minutes_ago * 60)  # fmt: skip


def test_a_conversion_ends_the_sequence_when_the_event_arrives(door: Door) -> None:
    by_hand(door, EXIT)
    door.plan()
    door.run("UPDATE enrollment SET due_at = now() + interval '1 day', step_id = 'wait'")
    one = door.people[0]
    door.event(one, "purchase")
    # Nothing is due, so no planner looks: the event itself does it, and calls back what is queued.
    assert door.act().left == 1
    assert ends(door) == {one: "converted", **dict.fromkeys(door.people[1:])}
    assert sorted(states(door)) == ["cancelled", "scheduled", "scheduled", "scheduled"]
    [row] = door.run("SELECT reason, detail FROM decision WHERE kind = 'exited'")
    assert (row.reason, row.detail) == ("converted", {"because": "purchase happened"})


def test_a_conversion_ends_the_sequence_at_the_hand_off_too(door: Door) -> None:
    by_hand(door, EXIT)
    door.event(door.people[0], "purchase")
    # The news of it is not acted upon yet.
    door.plan()
    assert ends(door)[door.people[0]] == "converted" and len(states(door)) == 3
    assert door.act().left == 0


def test_after_the_hand_off_it_is_counted_and_the_rest_is_cancelled(door: Door) -> None:
    by_hand(door, f"{EXIT}\n{GOAL}")
    door.plan()
    one = door.people[0]
    door.run("UPDATE message SET state = 'working', run_at = NULL, owner = 'w', epoch = 1,"
             " watch_at = now() + interval '2 min' WHERE subscriber_id = :id", id=one)  # fmt: skip
    door.run(
        "UPDATE message SET state = 'armed', armed_at = now() WHERE subscriber_id = :id", id=one
    )
    door.event(one, "purchase", amount=9.5)
    door.act()
    # What has permission for its dot cannot be called back; what would have come after it can.
    assert ends(door)[one] == "converted" and sorted(states(door))[0] == "armed"
    assert conversions(door) == [(one, Decimal("9.5"))]
    with door.database.transaction() as connection:
        told = [line.text for line in explain(connection, one).lines]
    assert "converted: purchase, worth 9.5" in told
    assert "left the sequence at mail: converted (purchase happened)" in told


def test_a_conversion_from_before_the_entry_neither_ends_nor_counts(door: Door) -> None:
    by_hand(door, f"{EXIT}\n{GOAL}", minutes_ago=60)
    before, after, recorded, dated = door.people
    door.event(before, "purchase", ago=61 * 60)  # told late: it happened before
    door.event(after, "purchase", ago=59 * 60)
    door.event(recorded, "purchase", ago=59 * 60, late=61 * 60)
    # A source that knows the date alone says midnight.
    door.run(
        "INSERT INTO event (subscriber_id, name, occurred_at) SELECT :id, 'purchase',"
        " date_trunc('day', entered_at, 'UTC') FROM enrollment WHERE subscriber_id = :id",
        id=dated,
    )
    door.act()
    door.plan()
    assert ends(door) == {before: None, after: "converted", recorded: None, dated: "converted"}
    assert [who for who, _ in conversions(door)] == [after, dated]


def test_who_was_let_in_by_an_event_counts_from_it_in_whichever_order_word_comes(
    door: Door,
) -> None:
    """Paused, resumed a minute later; word of the resumption came first, or together, or last."""
    door.sequence("trigger: {event: paused}", f"{EXIT}\n{GOAL}")
    first, together, last, never = door.people
    door.event(first, "purchase", ago=60, amount=1)
    door.act()
    door.event(first, "paused", ago=120)
    door.event(together, "purchase", ago=60, amount=2)
    door.event(together, "paused", ago=120)
    door.event(last, "paused", ago=120)
    door.event(never, "purchase", ago=180, amount=4)
    door.event(never, "paused", ago=120)
    door.act()
    door.event(last, "purchase", ago=60, amount=3)
    door.act()
    door.plan()
    assert ends(door) == {
        first: "converted", together: "converted", last: "converted", never: None,
    }  # fmt: skip
    assert conversions(door) == [(first, 1), (together, 2), (last, 3)]
    assert states(door) == ["scheduled"]


def test_the_earliest_event_is_the_conversion_and_the_window_ends(door: Door) -> None:
    by_hand(door, GOAL, minutes_ago=22 * 24 * 60)
    one, late = door.people[:2]
    for hours, amount in ((2, 20), (30, 30), (3, 25)):
        door.event(one, "purchase", ago=hours * 3600, amount=amount)
        door.act()
    door.event(late, "purchase", ago=3600 * 23)
    door.act()
    # 21 days from the entry ended a day ago.
    assert conversions(door) == [(one, 30)]


def test_an_exit_by_an_event_acts_while_the_sequence_is_paused(door: Door) -> None:
    """R11."""
    by_hand(door, EXIT)
    door.run("UPDATE sequence SET paused_at = now(), pause_reason = 'why'")
    door.plan()
    door.event(door.people[0], "purchase")
    door.act()
    assert ends(door)[door.people[0]] == "converted"
    held = door.run("SELECT parked_from FROM enrollment WHERE subscriber_id = :id",
                    id=door.people[0])  # fmt: skip
    assert [row.parked_from for row in held] == [None]


HALF = Holdout(Decimal(50), "half")
HELD = f"holdout: {{percent: 50, salt: half}}\n{GOAL}"


def test_who_is_held_out_walks_the_whole_sequence_without_a_mail(database: Database) -> None:
    door = Door(database, 20)
    by_hand(door, HELD)
    held = {who for who in door.people if HALF.holds(who)}
    assert 0 < len(held) < 20
    door.plan()
    rows = door.run("SELECT subscriber_id, state::text, reason FROM message")
    assert {row[0] for row in rows if row[1:] == ("held_out", "holdout")} == held
    assert {row[0] for row in rows if row[1:] == ("scheduled", None)} == set(door.people) - held
    # Both arms share one timeline: they stand in the same wait.
    rows = door.run("SELECT subscriber_id FROM enrollment WHERE step_id = 'wait'")
    assert {row[0] for row in rows} == held
    door.run("UPDATE enrollment SET due_at = now() WHERE due_at IS NOT NULL")
    door.plan()
    done = door.run("SELECT subscriber_id, end_reason FROM enrollment WHERE NOT active")
    assert {row[0] for row in done} == held and {row[1] for row in done} == {"completed"}
    assert states(door).count("held_out") == 2 * len(held)


def test_the_bucket_is_the_same_on_every_entry_and_in_every_sequence_of_that_salt(
    door: Door,
) -> None:
    entry = "manual: true, reentry: {policy: concurrent}"
    for key in ("one", "two"):
        door.sequence(entry, HELD, key=key)
        for _ in range(2):
            enroll_all(door.database, key)
    door.plan()
    rows = door.run("SELECT subscriber_id, count(*), count(*) FILTER (WHERE state = 'held_out')"
                    " FROM message GROUP BY 1")  # fmt: skip
    assert {row[0]: row[2] for row in rows} == {
        who: 4 if HALF.holds(who) else 0 for who in door.people
    }
    assert {row[1] for row in rows} == {4}


def test_sql_and_the_engine_hold_out_the_same_people(database: Database) -> None:
    for salt, percent in (("half", "50"), ("ü" * 70, "7.25"), ("x", "0.01")):
        holdout = Holdout(Decimal(percent), salt)
        with database.transaction() as connection:
            rows = connection.execute(
                text(f"SELECT e.subscriber_id, {HELD_OUT} AS held FROM"
                     " (SELECT generate_series(1, 2000) AS subscriber_id) e"),
                parameters(holdout),
            ).all()  # fmt: skip
        assert [row.held for row in rows] == [holdout.holds(row.subscriber_id) for row in rows]


def test_the_report_counts_both_arms_alike(database: Database) -> None:
    door = Door(database, 20)
    by_hand(door, HELD)
    door.plan()
    for who in door.people[:10]:
        door.event(who, "purchase", amount=who % 3)
        door.event(who, "purchase", amount=100)
    door.act()
    with database.transaction() as connection:
        found = report(connection, "door")
    assert (found.goal, found.holdout) == ("purchase within 3w", "50 % by salt half")
    mailed, held = found.arms
    for arm, holds in ((mailed, False), (held, True)):
        people = [who for who in door.people if HALF.holds(who) is holds]
        bought = [who for who in door.people[:10] if HALF.holds(who) is holds]
        assert arm.people == arm.entries == arm.active == len(people)
        assert arm.converted == arm.people_converted == len(bought)
        assert arm.value == sum(who % 3 for who in bought)
        assert arm.rate == len(bought) / len(people)
    assert (mailed.sent, mailed.held) == (0, 0) and held.held == held.people


def test_a_transactional_sequence_holds_nobody_out(database: Database) -> None:
    """The loader refuses it; a version that says so all the same sends."""
    door = Door(database, 20)
    by_hand(door, HELD)
    door.run(
        'UPDATE sequence_version SET definition = definition || \'{"class"\\: "transactional"}\''
    )
    door.plan()
    assert set(states(door)) == {"scheduled"} and len(states(door)) == 20


def converted(door: Door, arm: bool, n: int, worth: float) -> None:
    """Of the mailed, or of those held out, that many converted."""
    for who in [who for who in door.people if HALF.holds(who) is arm][:n]:
        door.run("INSERT INTO conversion (enrollment_id, sequence_key, subscriber_id, event_id,"
                 " occurred_at, value) SELECT id, sequence_key, subscriber_id, id, now(), :worth"
                 " FROM enrollment WHERE subscriber_id = :who", who=who, worth=worth)  # fmt: skip


def lift_of(door: Door) -> Lift:
    with door.database.transaction() as connection:
        found = report(connection, "door").lift
    assert found is not None
    return found


def test_what_the_mails_brought_is_said_with_its_interval_or_not_at_all(database: Database) -> None:
    door = Door(database, 120)
    enroll_all(door.database, door.sequence("manual: true", HELD))
    held = sum(HALF.holds(who) for who in door.people)
    few = lift_of(door)
    assert (few.mailed, few.held_out, few.conversions) == (120 - held, held, None)
    assert few.said.startswith("what the mails brought cannot be said: 0 of ")
    converted(door, False, 30, 10)
    converted(door, True, 6, 5)
    door.plan()
    door.run("UPDATE message SET state = 'sent', run_at = NULL, terminal_at = now()"
             " WHERE state = 'scheduled'")  # fmt: skip
    found = lift_of(door)
    low = newcombe(6, held, 30, 120 - held)[0]
    assert found.conversions is not None and found.value is not None
    assert found.conversions.low == pytest.approx(1000 * low)
    assert found.conversions.value == pytest.approx(1000 * (30 / (120 - held) - 6 / held))
    assert found.mails == 120 - held and found.per_thousand_mails == found.conversions
    assert found.value.value == pytest.approx(1000 * (300 / (120 - held) - 30 / held))
    assert 0 < found.value.low < found.value.value < found.value.high
    assert found == lift_of(door) and "not told apart" not in found.said
    with door.database.transaction() as connection:
        html = page(plain(report(connection, "door")))
    assert "(+" in html and not re.search(r"(?:src|href)=|https?:|url\(|<script", html)
    drawn = [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", html)]
    assert [len(each.findall(".//*[@class='mark']")) for each in drawn] == [2, 2]
    # Entries from before the present holdout were divided otherwise.
    door.run("UPDATE sequence_version SET created_at = now() + interval '1 hour'")
    assert lift_of(door).mailed == 0
