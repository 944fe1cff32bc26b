"""Where an edit puts people, in values: the clock stands still and nothing is stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schedules.definition import Sequence
from schedules.expression.evaluate import Known
from schedules.loader import loads
from tasks.sequence.edit import Edit, Landing, Stand, body, kind_of, reached
from tasks.sequence.engine import Exit, Facts, HandOff, Position, plan

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
HEAD = """key: demo
title: A demo
class: transactional
timezone: {source: subscriber, fallback: Europe/Berlin}
entry: {manual: true}
"""
A = "  - {id: a, send: {template: d/a}}\n"
W = "  - {id: w, wait: {delay: 2d}}\n"
B = "  - {id: b, send: {template: d/b}}\n"
LOCAL = '  - {id: l, wait: {calendar_days: 2, at: "09:30"}}\n'
DATE = '  - {id: d, wait: {until_date: {attribute: trial, at: "09:30", missing: skip}}}\n'
C = "  - {id: c, send: {template: d/c}}\n"


def of(*steps: str, head: str = HEAD) -> Sequence:
    return loads(head + "steps:\n" + "".join(steps), "demo.yaml")


def edit(old: Sequence, new: Sequence) -> Edit:
    return Edit({1: old}, new)


def stand(step: str | None, **changes: Any) -> Stand:
    told: dict[str, Any] = {"started_at": NOW - 24 * HOUR, "due_at": NOW + 24 * HOUR} | changes
    return Stand(1, 7, 1, step, **told)


def test_who_stands_in_a_step_that_is_as_it_was_stands_as_they_did() -> None:
    landing = edit(of(A, W, B), of(W, B, A)).land(stand("w"), NOW)
    assert landing == Landing("kept", "w", True, NOW + 24 * HOUR, lands="w")


def test_who_has_not_begun_begins_at_the_new_first_step() -> None:
    landing = edit(of(A, W), of(B, A)).land(stand(None, started_at=None), NOW)
    assert (landing.what, landing.step_id, landing.begun, landing.lands) == (
        "kept", None, False, "b"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("delay", "what", "left"),
    [("3d", "retimed", 48), ("2d", "kept", 24), ("25h", "retimed", 1), ("24h", "retimed", 0), ("1h", "retimed", 0)],
)  # fmt: skip
def test_what_was_waited_is_counted(delay: str, what: str, left: int) -> None:
    landing = edit(of(A, W, B), of(A, W.replace("2d", delay), B)).land(stand("w"), NOW)
    assert (landing.what, landing.at) == (what, NOW + left * HOUR)
    assert landing.begun and landing.step_id == "w"


def test_a_wait_that_has_not_begun_is_not_timed() -> None:
    landing = edit(of(A, W, B), of(A, W.replace("2d", "1h"), B)).land(
        stand("w", started_at=None), NOW
    )
    assert (landing.what, landing.begun, landing.at) == ("kept", False, NOW + 24 * HOUR)


def test_a_wait_that_is_held_is_timed_where_it_is_held() -> None:
    held = stand("w", due_at=None, held_from=NOW + 24 * HOUR)
    landing = edit(of(A, W, B), of(A, W.replace("2d", "3d"), B)).land(held, NOW)
    assert (landing.what, landing.at) == ("retimed", NOW + 48 * HOUR)


@pytest.mark.parametrize(
    ("zone", "at"), [("Asia/Tokyo", "2026-03-05T00:30Z"), (None, "2026-03-05T08:30Z")]
)
def test_local_waits_are_counted_in_dates_of_the_subscriber(zone: str | None, at: str) -> None:
    rules = edit(of(A, W.replace("delay: 2d", 'calendar_days: 2, at: "20:00"')), of(A, LOCAL.replace("id: l", "id: w")))  # fmt: skip
    landing = rules.land(stand("w", zone=zone), NOW)
    assert landing.at == datetime.fromisoformat(at)


def test_another_fallback_zone_times_local_waits_anew_and_no_others() -> None:
    moved = HEAD.replace("Europe/Berlin", "Asia/Tokyo")
    rules = edit(of(LOCAL, W), of(LOCAL, W, head=moved))
    assert rules.land(stand("l"), NOW).what == "retimed"
    assert rules.land(stand("w"), NOW).what == "kept"


def test_a_date_is_asked_for_again_and_who_has_none_is_looked_at_now() -> None:
    rules = edit(of(DATE, B), of(DATE.replace("09:30", "10:30"), B))
    needs = rules.needs(stand("d"))
    assert needs is not None and needs.subscriber
    assert not rules.needs(stand("d", started_at=None))
    assert not rules.needs(stand("b"))
    known = Known(NOW, {"trial": "2026-03-20"})
    assert rules.land(stand("d"), NOW, known).at == datetime(2026, 3, 20, 9, 30, tzinfo=UTC)
    none = rules.land(stand("d"), NOW)
    assert (none.what, none.begun, none.at, none.lands) == ("retimed", False, NOW, "d")


def test_an_unchanged_date_asks_for_nothing() -> None:
    assert not edit(of(DATE, B), of(A, DATE, B)).needs(stand("d"))


def test_the_first_step_that_is_left_takes_the_people_of_a_deleted_one() -> None:
    rules = edit(of(A, W, B, LOCAL, C), of(C, A))
    assert rules.survivor(1, "w") == "c"
    assert rules.land(stand("w"), NOW) == Landing("moved", "c", False, NOW + 24 * HOUR, lands="c")
    assert rules.survivor(1, "c") is None
    gone = edit(of(A, W, B), of(A)).land(stand("w"), NOW)
    assert (gone.what, gone.leaves, gone.at, gone.lands) == ("removed", "step_deleted", None, None)


def outcome(landing: Landing, state: str, new: Sequence) -> Any:
    """What the planner makes of a mail that ended, where an edit left its enrollment."""
    position = Position(
        1, 7, 1, landing.step_id, NOW, NOW, rule=landing.rule, outcome=state  # type: ignore[arg-type]
    )  # fmt: skip
    return plan(new, position, Facts(NOW)).rest


MAIL = {"due_at": None, "started_at": NOW - HOUR}


def test_a_mail_under_way_ends_before_its_reader_goes_on() -> None:
    new = of(B, C)
    landing = edit(of(A, B, C), new).land(stand("a", **MAIL), NOW)
    assert (landing.what, landing.step_id, landing.begun, landing.lands) == (
        "moved",
        "a",
        True,
        "b",
    )
    for state in ("sent", "failed", "expired", "late"):
        rest = outcome(landing, state, new)
        assert isinstance(rest, HandOff) and rest.step_id == "b"
    assert outcome(landing, "cancelled", new) == Exit("a", "cancelled")


@pytest.mark.parametrize(
    ("on_fail", "kept", "ends"),
    [("exit", (B, C), Exit("a", "failed")), ("c", (B, C), "c"), ("c", (B,), Exit("a", "failed")), ("c", (B, W), Exit("a", "failed"))],
)  # fmt: skip
def test_the_way_of_a_mail_that_fails_is_kept_as_far_as_it_is_there(
    on_fail: str, kept: tuple[str, ...], ends: Any
) -> None:
    first = A.replace("d/a}", f"d/a}}, on_fail: {on_fail}")
    new = of(*kept)
    landing = edit(of(first, B, C), new).land(stand("a", **MAIL), NOW)
    rest = outcome(landing, "failed", new)
    assert rest == ends or getattr(rest, "step_id", None) == ends
    assert outcome(landing, "sent", new).step_id == "b"


def test_a_mail_with_nothing_left_behind_it_ends_the_way() -> None:
    new = of(C)
    landing = edit(of(C, A), new).land(stand("a", **MAIL), NOW)
    assert (landing.what, landing.leaves, landing.lands) == ("removed", None, None)
    assert outcome(landing, "sent", new) == Exit("a", "step_deleted")


def test_a_mail_that_stays_in_its_step_is_left_alone() -> None:
    landing = edit(of(A, W), of(A, B)).land(stand("a", **MAIL), NOW)
    assert landing == Landing("kept", "a", True, None, lands="a")


def test_a_second_edit_finds_a_mail_of_a_step_that_the_first_took_away() -> None:
    first = edit(of(A, B, C), of(B, C)).land(stand("a", **MAIL), NOW)
    again = Stand(1, 7, 2, "a", NOW - HOUR, None, rule=first.rule)
    for steps, goes in (((B, C), "b"), ((C,), "c"), ((W,), None)):
        landing = Edit({2: of(B, C)}, of(*steps)).land(again, NOW)
        assert landing.rule is not None and landing.rule["to"] == goes == landing.lands
        assert landing.what == ("removed" if goes is None else "moved")


def test_drained_people_leave_and_their_mails_under_way_are_the_last() -> None:
    new = of(A, W, B, head=HEAD + "publish: {enrolled: drain}\n")
    rules = edit(of(A, W, B), new)
    for there in (stand("w"), stand(None, started_at=None), stand("b", started_at=None)):
        landing = rules.land(there, NOW)
        assert (landing.what, landing.leaves, landing.at) == ("removed", "drained", None)
    landing = rules.land(stand("a", **MAIL), NOW)
    assert (landing.what, landing.leaves, landing.begun) == ("removed", None, True)
    assert outcome(landing, "sent", new) == Exit("a", "drained")
    assert outcome(landing, "failed", new) == Exit("a", "drained")


def test_what_is_brought_forward_is_what_was_not_ahead() -> None:
    rules = edit(of(A, W, B, LOCAL), of(W, LOCAL, A, B, C))
    assert rules.brought_forward(1, "b", "b") == set()
    assert rules.brought_forward(1, "w", "w") == {"a"}
    assert rules.brought_forward(1, "l", "l") == {"a", "b"}
    back = Edit({2: of(A, B)}, of(A, B, W, C), frozenset("abwl"))
    assert back.brought_forward(2, "b", "b") == {"w"}


def test_what_is_passed_is_not_run_but_a_branch_is_only_a_way() -> None:
    branch = '  - {id: x, branch: [{if: "sub.a == 1", next: b}, {else: c}]}\n'
    sequence = of(A, W, branch, B, C)
    position = Position(1, 7, 1, None, None, NOW, passed=frozenset({"a", "w", "x", "b"}))
    made = plan(sequence, position, Facts(NOW, known=Known(NOW, {"a": 1})))
    assert isinstance(made.rest, HandOff) and made.rest.step_id == "c"
    assert [(d.kind, d.step_id) for d in made.decisions] == [
        ("passed", "a"), ("passed", "w"), ("branched", "x"), ("passed", "b"), ("handed_off", "c"),
    ]  # fmt: skip
    ends = Position(1, 7, 1, "b", None, NOW, passed=frozenset({"b"}))
    assert plan(of(A, B), ends, Facts(NOW)).rest == Exit("b", "completed")
    leaves = "  - {id: e, exit: {reason: done}}\n"
    last = Position(1, 7, 1, "e", None, NOW, passed=frozenset({"e"}))
    assert plan(of(A, leaves), last, Facts(NOW)).rest == Exit("e", "done")


def ahead(landing: Landing, *steps: str, zone: str | None = None) -> tuple[str, ...]:
    return edit(of(*steps), of(*steps)).mails(landing, zone, NOW)


def test_the_mails_of_a_day_are_those_on_the_default_way_within_it() -> None:
    begun = Landing("kept", "w", True, NOW + 2 * HOUR, lands="w")
    fresh = Landing("kept", None, False, NOW, lands="a")
    assert ahead(begun, A, W, B, C) == ("b", "c")
    assert ahead(fresh, A, B, W, C) == ("a", "b")
    assert ahead(fresh, A, W.replace("2d", "24h"), C) == ("a", "c")
    assert ahead(fresh, A, W.replace("2d", "25h"), C) == ("a",)
    late = Landing("kept", "w", True, NOW + 24 * HOUR, lands="w")
    assert ahead(late, A, W, B) == ("b",)
    assert ahead(Landing("kept", "w", True, NOW + 25 * HOUR, lands="w"), A, W, B) == ()
    assert ahead(Landing("removed", "w", True, NOW, lands=None), A, W, B) == ()
    assert ahead(Landing("kept", "a", True, None, lands="a"), A, B) == ("b",)
    assert ahead(fresh, A, DATE, B) == ("a",)
    soon = LOCAL.replace("2, at", "1, at")
    assert ahead(fresh, A, soon, B) == ("a", "b")
    assert ahead(fresh, A, soon, B, zone="America/Los_Angeles") == ("a",)


def test_a_landing_elsewhere_begins_the_step_it_lands_on() -> None:
    moved = Landing("moved", "a", True, None, lands="b")
    assert ahead(moved, B, C) == ("b", "c")


def test_at_once_means_before_anything_is_waited_for() -> None:
    rules = edit(of(A, W, B), of(A, W, B))
    assert rules.at_once(Landing("retimed", "w", True, NOW, lands="w"), None, NOW)
    assert not rules.at_once(Landing("retimed", "w", False, NOW, lands="w"), None, NOW)
    assert not rules.at_once(Landing("retimed", "b", True, NOW, lands="b"), None, NOW)
    assert not rules.at_once(Landing("removed", "w", True, NOW, lands=None), None, NOW)


def test_what_a_step_does_is_told_without_where_it_leads() -> None:
    [first, *_] = of(A, W).steps
    [other, *_] = of(A.replace("d/a}", "d/a}, next: c"), C).steps
    assert body(first) == body(other) and kind_of(first) == "send"
    assert reached(of(A, W, B), "w") == {"b"} and reached(of(A), None) == set()
