"""Whom the gates stop, by the class of a sequence and by the lot of its holdout."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from schedules.definition import Sequence
from schedules.expression.evaluate import Known
from schedules.loader import loads
from tasks.sequence.engine import Facts, HandOff, Plan, Position, Postpone, plan

Class: TypeAlias = Literal["marketing", "transactional"]
NOW = datetime.fromisoformat("2026-03-24T22:30:00Z")  # half past eleven at night in Berlin
FRESH = Position(
    enrollment_id=1, subscriber_id=7, entry_no=1, step_id=None, started_at=None, due_at=NOW
)
SOURCE = """
key: gates
title: Gates
class: marketing
topic: news
timezone: {source: subscriber, fallback: Europe/Berlin}
entry: {manual: true}
MORE
steps:
  - {id: mail, send: {template: test/mail}}
"""
QUIET = 'limits: {quiet_hours: {from: "21:00", to: "08:00", on_hit: next_allowed}}'
HOLDOUT = "holdout: {percent: 50, salt: half}"
LATE = "catch_up: {max_lateness: 1h, on_late: next_window}"


def sequence(class_: Class, more: str) -> Sequence:
    return replace(loads(SOURCE.replace("MORE", more), "gates.yaml"), class_=class_)


def planned(class_: Class, more: str, late: timedelta = timedelta(), who: int = 7) -> Plan:
    position = replace(FRESH, subscriber_id=who, due_at=NOW - late)
    return plan(sequence(class_, more), position, Facts(now=NOW, opted_in=True))


def test_a_lot_says_who_is_held_out_and_everybody_else_is_mailed() -> None:
    holdout = sequence("marketing", HOLDOUT).holdout
    assert holdout is not None
    for who in range(1, 40):
        made = planned("marketing", HOLDOUT, who=who)
        assert [n.state for n in made.non_sends] == ["held_out"] * holdout.holds(who)
        assert isinstance(made.rest, HandOff) is not holdout.holds(who)


def test_a_transactional_mail_is_held_out_for_nobody_and_goes_at_night() -> None:
    for who in range(1, 40):
        made = planned("transactional", f"{HOLDOUT}\n{QUIET}", who=who)
        assert isinstance(made.rest, HandOff) and made.non_sends == ()
    assert isinstance(planned("marketing", QUIET).rest, Postpone)


def test_what_is_too_late_for_the_next_window_waits_for_it_where_there_are_windows() -> None:
    late = timedelta(hours=2)
    made = planned("marketing", f"{QUIET}\n{LATE}", late)
    assert isinstance(made.rest, Postpone) and made.non_sends == ()
    assert made.rest.until == datetime.fromisoformat("2026-03-25T07:00:00Z")
    made = planned("transactional", f"{QUIET}\n{LATE}", late)
    assert [n.state for n in made.non_sends] == ["late"]


def test_a_zone_that_is_missing_is_counted_once_a_walk_wherever_it_is_missed() -> None:
    branch = "steps:\n  - {id: b, branch: [{if: sub.vip, next: mail}, {else: mail}]}\n"
    source = SOURCE.replace("MORE", f"{QUIET}\n{LATE}").replace("steps:\n", branch)
    facts = Facts(now=NOW, opted_in=True, known=Known(NOW))
    position = replace(FRESH, due_at=NOW - timedelta(hours=2))
    kinds = [d.kind for d in plan(loads(source, "gates.yaml"), position, facts).decisions]
    assert kinds == ["branched", "zone_fallback", "postponed"]
