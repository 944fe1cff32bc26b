"""What the mails brought by step, and for whom, by what was true before any mail could change it."""

from __future__ import annotations

import re
from decimal import Decimal
from xml.etree import ElementTree

import pytest

from models.session import Database
from schedules.goal import Holdout
from tasks.experiment.intervals import newcombe
from tasks.sequence.conversion_days import Day
from tasks.sequence.lift_parts import Part
from tasks.sequence.report import Report, report
from tasks.sequence.report_page import page
from tests.live import seeds
from tests.live.door import Door
from workers.cli import lift_parts
from workers.cli.render import plain

HALF = Holdout(Decimal(50), "half")
MORE = (
    "holdout: {percent: 50, salt: half}\ngoal: {event: purchase, window: 21d, value: event.amount}"
)


def told(door: Door) -> Report:
    with door.database.snapshot() as connection:
        return report(connection, "door")


def by_name(found: Report) -> dict[tuple[str, str], Part]:
    assert found.lift is not None
    return {(part.by, part.part): part for part in found.lift.parts}


def converted(door: Door, arm: bool, first: int, n: int, days: float, worth: float = 10) -> None:
    """So many of an arm reach the goal, so many days after the entry; from the `first` one on."""
    who = [who for who in door.people if HALF.holds(who) is arm][first : first + n]
    door.run("INSERT INTO conversion (enrollment_id, sequence_key, subscriber_id, event_id,"
             " occurred_at, value) SELECT id, sequence_key, subscriber_id, id, entered_at"
             " + make_interval(secs => 86400 * :days), :worth FROM enrollment"
             " WHERE subscriber_id = ANY(:who)", who=who, worth=worth, days=days)  # fmt: skip


def scored(door: Door) -> None:
    """Everybody's churn score is their number over a thousand, and the first 200 are loyal."""
    door.run(
        "INSERT INTO score_artifact (id, name, data, manifest) VALUES ('churn-1', 'churn', '', '{}')"
    )
    door.run("INSERT INTO score_champion (name, artifact) VALUES ('churn', 'churn-1')")
    door.run("INSERT INTO score (name, subscriber_id, value, artifact, scored_at)"
             " SELECT 'churn', id, id / 1000.0, 'churn-1', clock_timestamp() FROM subscriber")  # fmt: skip
    door.run(
        "INSERT INTO segment (key, title, condition, refresh) VALUES ('loyal', 'L', 'true', '1h')"
    )
    edge = ("INSERT INTO segment_edge (segment, subscriber_id, join_no, edge, cause, at)"
            " SELECT 'loyal', id, 1, :edge, 'schedule', clock_timestamp() + CAST(:on AS interval)"
            " FROM subscriber WHERE id <= :upto")  # fmt: skip
    door.run(edge, edge="join", on="-100 days", upto=200)
    door.run(edge, edge="leave", on="-1 day", upto=200)


def test_parts_compare_whole_arms_and_steps_add_up(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    door = Door(database, 420)
    door.sequence("manual: true", MORE)
    scored(door)
    seeds.enroll(door.database, "door", door.people)
    # What is said of them later changes nothing.
    door.run("UPDATE score SET value = 1 - value")
    door.plan()
    door.run(
        "UPDATE message SET state = 'sent', run_at = NULL, terminal_at = now() WHERE state = 'scheduled'"
    )
    door.run("UPDATE sequence_version SET created_at = created_at - interval '30 days'")
    door.run("UPDATE enrollment SET entered_at = entered_at - interval '30 days'")
    door.run("UPDATE message SET created_at = created_at - interval '28 days'")
    held = sum(HALF.holds(who) for who in door.people)
    mailed = 420 - held
    for arm, before, after in ((False, 12, 60), (True, 12, 20)):
        converted(door, arm, 0, before, days=1, worth=5)
        converted(door, arm, before, after, days=4.2)
    found = told(door)
    assert found.lift is not None and found.lift.conversions is not None
    parts = by_name(found)
    steps = [part for part in found.lift.parts if part.by == "step"]
    assert [part.part for part in steps] == ["", "mail", "last"]
    first = parts["step", "mail"]
    assert (first.mailed, first.held_out) == (mailed, held)
    assert (first.mailed_converted, first.held_out_converted, first.mails) == (60, 20, mailed)
    assert first.conversions is not None and first.value is not None
    low, high = newcombe(20, held, 60, mailed)
    assert first.conversions.low == pytest.approx(1000 * low)
    assert first.conversions.high == pytest.approx(1000 * high)
    assert first.value.value == pytest.approx(1000 * (600 / mailed - 200 / held))
    assert first.per_thousand_mails == first.conversions
    total = sum(part.conversions.value for part in steps if part.conversions)
    assert total == pytest.approx(found.lift.conversions.value)
    assert parts["step", "last"].conversions is None
    assert parts["step", "last"].said is not None and "wait for conv" in parts["step", "last"].said
    # The loyal are those who were when they came in, though nobody is any more.
    loyal = parts["segment", "loyal"]
    assert loyal.mailed + loyal.held_out == 200
    bands = [part for part in found.lift.parts if part.by == "score"]
    assert sorted(part.part for part in bands) == [
        f"churn: {third}" for third in ("highest", "lowest", "middle")
    ]
    lowest = parts["score", "churn: lowest"]
    assert lowest.mailed + lowest.held_out == 140
    assert lowest.mailed == sum(not HALF.holds(who) for who in door.people[:140])
    done = [who for who in door.people if not HALF.holds(who)][:72]
    assert lowest.mailed_converted == sum(who in door.people[:140] for who in done)
    shares = {day.day: [day.mailed_share, day.held_out_share] for day in found.days}
    assert shares[0] == [0, 0] and max(shares) == 21
    assert shares[21] == pytest.approx([72 / mailed, 32 / held])
    assert shares[2] == pytest.approx([12 / mailed, 12 / held])
    html = page(plain(found))
    assert not re.search(r"(?:src|href)=|https?:|url\(|<script", html)
    drawn = [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", html)]
    lines = [each for tree in drawn for each in tree.findall(".//polyline")]
    assert ["dashed" in each.attrib["class"] for each in lines] == [False, True]
    assert "By thirds of the score that people had when they came in" in html
    lift_parts.show(plain(found.lift.parts))
    out = capsys.readouterr()
    assert "60 of" in out.out and "step last: " in out.err


def test_parts_that_are_too_small_say_so(database: Database) -> None:
    door = Door(database, 60)
    door.sequence("manual: true", MORE)
    scored(door)
    seeds.enroll(door.database, "door", door.people)
    converted(door, False, 0, 8, days=0)
    parts = by_name(told(door))
    assert {part.conversions for part in parts.values()} == {None}
    for part in parts.values():
        assert (
            part.said == f"{part.mailed} mailed and {part.held_out} held out: 50 of each are needed"
        )
    plainly = Door(database, 0)
    plainly.sequence("manual: true", "goal: {event: purchase, window: 21d}", key="plain")
    seeds.enroll(database, "plain", door.people)
    with database.snapshot() as connection:
        told_plainly = report(connection, "plain")
    assert told_plainly.lift is None and told_plainly.days == (Day(0, 60, 0.0, 0, None),)
    assert "What the mails brought is not known" in page(plain(told_plainly))
    rows = plainly.run("SELECT count(*) AS n, count(DISTINCT enrollment_id) AS of FROM entry_score")
    assert tuple(rows[0]) == (60, 60)  # a sequence without a holdout keeps none
