from __future__ import annotations

import json
import time as clock
from dataclasses import replace
from datetime import datetime, time, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.definition import (
    BranchStep,
    Case,
    CatchUp,
    ExitRule,
    ExitStep,
    SendStep,
    Sequence,
    Timezone,
    UntilDate,
    UpdateStep,
    WaitStep,
)
from schedules.expression import read
from schedules.expression.evaluate import Known
from tasks.sequence.decisions import sentence
from tasks.sequence.engine import (
    GATES,
    Await,
    Exit,
    Facts,
    HandOff,
    NonSend,
    Outcome,
    Park,
    Plan,
    Position,
    Postpone,
    Update,
    Wait,
    plan,
)

NOW = datetime.fromisoformat("2026-03-27T18:00:00Z")
SEQUENCE = Sequence(
    key="demo",
    title="A demo",
    class_="marketing",
    topic="product-news",
    timezone=Timezone(fallback="Europe/Berlin"),
    steps=(
        SendStep("hello", "demo/hello", next="pause"),
        WaitStep("pause", next="nudge", delay=timedelta(days=2)),
        SendStep("nudge", "demo/nudge", next="morning"),
        WaitStep("morning", next="last", calendar_days=2, at=time(9, 30)),
        SendStep("last", "demo/last", on_fail="exit"),
    ),
)
FRESH = Position(
    enrollment_id=1, subscriber_id=7, entry_no=1, step_id=None, started_at=None, due_at=NOW
)
FACTS = Facts(now=NOW)


def at(step_id: str, **changes: Any) -> Position:
    """Stand in a step that has begun."""
    return replace(FRESH, step_id=step_id, started_at=NOW - timedelta(hours=1), **changes)


def due(step_id: str, late: timedelta, **changes: Any) -> Position:
    """Stand before a step that was due some time ago."""
    return replace(FRESH, step_id=step_id, due_at=NOW - late, **changes)


def with_catch_up(**changes: Any) -> Sequence:
    return replace(SEQUENCE, catch_up=CatchUp(**changes))


def said(made: Plan) -> list[tuple[str, str | None, str]]:
    return [(decision.kind, decision.step_id, decision.reason) for decision in made.decisions]


def test_a_fresh_enrollment_is_handed_off_at_its_first_step() -> None:
    made = plan(SEQUENCE, FRESH, FACTS)
    expires = NOW + timedelta(hours=72)
    assert made.rest == HandOff("hello", "demo/hello", NOW, expires, ((NOW, expires),))
    assert made.non_sends == ()
    assert said(made) == [("handed_off", "hello", "due")]


def test_a_message_lives_as_long_as_told() -> None:
    made = plan(SEQUENCE, FRESH, FACTS, message_lifetime=timedelta(hours=1)).rest
    assert isinstance(made, HandOff)
    assert made.expires_at == NOW + timedelta(hours=1)


def test_a_delay_is_elapsed_time_from_now_across_a_clock_change() -> None:
    made = plan(SEQUENCE, at("hello", outcome="sent"), FACTS)
    rule = {"kind": "delay", "seconds": 172_800}
    assert made.rest == Wait("pause", NOW + timedelta(hours=48), rule)
    assert said(made) == [("waiting", "pause", "delay")]


@pytest.mark.parametrize(
    ("zone", "until"),
    [
        ("Europe/Berlin", "2026-03-29T07:30Z"),
        ("America/New_York", "2026-03-29T13:30Z"),
        ("Asia/Tokyo", "2026-03-30T00:30Z"),
    ],
)
def test_calendar_days_count_the_dates_of_the_subscriber(zone: str, until: str) -> None:
    rest = plan(SEQUENCE, at("nudge", outcome="sent", zone=zone), FACTS).rest
    assert isinstance(rest, Wait)
    assert rest.until == datetime.fromisoformat(until)
    assert rest.rule["zone"] == zone
    assert rest.rule["wall"].endswith("T09:30:00")
    assert rest.rule["tzdata"]
    json.dumps(rest.rule)


@pytest.mark.parametrize(
    ("zone", "reason"), [(None, "missing"), ("", "missing"), ("Mars/Olympus", "unknown")]
)
def test_a_zone_that_is_missing_or_unknown_falls_back_and_is_counted(
    zone: str | None, reason: str
) -> None:
    made = plan(SEQUENCE, at("nudge", outcome="sent", zone=zone), FACTS)
    assert isinstance(made.rest, Wait)
    assert made.rest.rule["zone"] == "Europe/Berlin"
    assert said(made)[0] == ("zone_fallback", "morning", reason)


def test_no_calendar_days_means_the_next_time_of_that_name() -> None:
    sequence = replace(SEQUENCE, steps=(WaitStep("w", calendar_days=0, at=time(20, 30)),))
    for now, until in [
        ("2026-03-27T18:00Z", "2026-03-27T19:30Z"),
        ("2026-03-27T19:30Z", "2026-03-28T19:30Z"),
        ("2026-03-28T20:00Z", "2026-03-29T18:30Z"),
    ]:
        rest = plan(sequence, FRESH, Facts(now=datetime.fromisoformat(now))).rest
        assert isinstance(rest, Wait)
        assert rest.until == datetime.fromisoformat(until)


def test_a_wait_that_ended_leads_to_what_follows() -> None:
    assert isinstance(plan(SEQUENCE, at("pause"), FACTS).rest, HandOff)


@pytest.mark.parametrize("outcome", ["sent", "sent_assumed", "held_out", "capped", "late"])
def test_these_outcomes_go_on(outcome: Outcome) -> None:
    assert isinstance(plan(SEQUENCE, at("hello", outcome=outcome), FACTS).rest, Wait)
    assert plan(SEQUENCE, at("last", outcome=outcome), FACTS).rest == Exit("last", "completed")


@pytest.mark.parametrize("outcome", ["suppressed", "cancelled"])
def test_these_outcomes_leave_with_their_reason(outcome: Outcome) -> None:
    made = plan(SEQUENCE, at("hello", outcome=outcome, outcome_reason="unsubscribed"), FACTS)
    assert made.rest == Exit("hello", "unsubscribed")
    assert plan(SEQUENCE, at("hello", outcome=outcome), FACTS).rest == Exit("hello", outcome)


@pytest.mark.parametrize("outcome", ["failed", "expired"])
def test_a_failure_follows_on_fail(outcome: Outcome) -> None:
    hello = SendStep("hello", "demo/hello", next="pause", on_fail="last")
    to_step = replace(SEQUENCE, steps=(hello, *SEQUENCE.steps[1:]))
    assert isinstance(plan(SEQUENCE, at("hello", outcome=outcome), FACTS).rest, Wait)
    assert plan(SEQUENCE, at("last", outcome=outcome), FACTS).rest == Exit("last", outcome)
    rest = plan(to_step, at("hello", outcome=outcome), FACTS).rest
    assert isinstance(rest, HandOff)
    assert rest.step_id == "last"


def test_a_hard_bounce_leaves_whatever_on_fail_says() -> None:
    made = plan(SEQUENCE, at("hello", outcome="failed", hard_bounce=True), FACTS)
    assert made.rest == Exit("hello", "hard_bounce")


def test_a_step_whose_message_is_live_again_is_awaited_and_not_sent_twice() -> None:
    assert plan(SEQUENCE, at("hello"), FACTS) == Plan(Await("hello"))


def test_the_list_runs_out_completed_and_an_exit_gives_its_own_reason() -> None:
    assert plan(SEQUENCE, at("last", outcome="sent"), FACTS).rest == Exit("last", "completed")
    ending = replace(SEQUENCE, steps=(ExitStep("end", "converted"),))
    assert plan(ending, FRESH, FACTS).rest == Exit("end", "converted")


def test_a_step_that_is_gone_ends_the_way() -> None:
    assert plan(SEQUENCE, at("gone"), FACTS).rest == Exit("gone", "step_deleted")


def test_a_paused_sequence_parks_before_a_mail_and_keeps_the_time_it_was_due() -> None:
    made = plan(SEQUENCE, due("nudge", timedelta(hours=3)), replace(FACTS, paused=True))
    assert made.rest == Park("nudge", "sequence_paused", NOW - timedelta(hours=3))
    assert made.non_sends == ()


def test_a_pause_exits_nobody_and_its_clock_runs() -> None:
    paused = replace(FACTS, paused=True)
    assert isinstance(plan(SEQUENCE, at("hello", outcome="sent"), paused).rest, Wait)
    assert isinstance(plan(SEQUENCE, at("pause"), paused).rest, Park)


def test_a_stopped_subscriber_gets_nothing_and_leaves() -> None:
    made = plan(SEQUENCE, FRESH, replace(FACTS, stopped="unsubscribed"))
    assert made.non_sends == (NonSend("hello", "demo/hello", "suppressed", "unsubscribed"),)
    assert made.rest == Exit("hello", "unsubscribed")


def test_the_gates_stand_in_their_order() -> None:
    assert [name for name, _ in GATES] == [
        "paused",
        "exit_predicates",
        "consent",
        "suppression",
        "holdout",
        "snooze",
        "lateness",
        "window",
        "frequency_cap",
        "throttle",
        "words",
    ]


@pytest.mark.parametrize(("paused", "stopped", "late"), list(product([False, True], repeat=3)))
def test_the_first_gate_that_refuses_gives_the_reason(
    paused: bool, stopped: bool, late: bool
) -> None:
    position = due("last", timedelta(hours=7 if late else 5))
    facts = Facts(NOW, paused, "erased" if stopped else None)
    made = plan(with_catch_up(max_lateness=timedelta(hours=6)), position, facts)
    states = [(row.state, row.reason) for row in made.non_sends]
    if paused:
        assert isinstance(made.rest, Park)
        assert states == []
    elif stopped:
        assert states == [("suppressed", "erased")]
        assert made.rest == Exit("last", "erased")
    elif late:
        assert states == [("late", "max_lateness")]
        assert made.rest == Exit("last", "completed")
    else:
        assert isinstance(made.rest, HandOff)


def test_without_a_bound_nothing_is_too_late() -> None:
    assert isinstance(plan(SEQUENCE, due("hello", timedelta(days=900)), FACTS).rest, HandOff)


@pytest.mark.parametrize(
    ("on_late", "rest", "states"),
    [("send", HandOff, []), ("skip", Wait, ["late"]), ("exit", Exit, ["late"])],
)
def test_beyond_the_bound_on_late_decides(on_late: Any, rest: type, states: list[str]) -> None:
    sequence = with_catch_up(max_lateness=timedelta(hours=6), on_late=on_late)
    exactly = plan(sequence, due("hello", timedelta(hours=6)), FACTS)
    beyond = plan(sequence, due("hello", timedelta(hours=6, microseconds=1)), FACTS)
    assert isinstance(exactly.rest, HandOff)
    assert isinstance(beyond.rest, rest)
    assert [row.state for row in beyond.non_sends] == states
    if on_late == "exit":
        assert beyond.rest == Exit("hello", "late")


def test_the_rule_of_a_step_goes_before_that_of_the_sequence() -> None:
    step = SendStep("a", "demo/a", max_lateness=timedelta(hours=12), on_late="exit")
    sequence = replace(with_catch_up(max_lateness=timedelta(hours=6)), steps=(step,))
    assert isinstance(plan(sequence, due("a", timedelta(hours=7)), FACTS).rest, HandOff)
    assert plan(sequence, due("a", timedelta(hours=13)), FACTS).rest == Exit("a", "late")


def test_a_mail_behind_a_wait_that_ended_long_ago_is_late() -> None:
    sequence = with_catch_up(max_lateness=timedelta(hours=6))
    made = plan(sequence, at("pause", due_at=NOW - timedelta(hours=7)), FACTS)
    assert [row.step_id for row in made.non_sends] == ["nudge"]
    assert isinstance(made.rest, Wait)


def test_mails_in_a_row_that_are_late_are_all_said_no_to_at_once() -> None:
    sequence = replace(
        with_catch_up(max_lateness=timedelta(hours=6)),
        steps=(SendStep("a", "demo/a", "b"), SendStep("b", "demo/b", "c"), ExitStep("c", "done")),
    )
    made = plan(sequence, due("a", timedelta(hours=7)), FACTS)
    assert [row.step_id for row in made.non_sends] == ["a", "b"]
    assert made.rest == Exit("c", "done")


SPREADING = with_catch_up(max_lateness=timedelta(hours=6), spread=timedelta(minutes=30))


def test_a_punctual_mail_is_not_spread() -> None:
    assert isinstance(plan(SPREADING, due("hello", timedelta(seconds=59)), FACTS).rest, HandOff)


def test_late_mails_are_spread_evenly_and_each_subscriber_keeps_its_place() -> None:
    shares = []
    for subscriber in range(2000):
        position = due("hello", timedelta(hours=1), subscriber_id=subscriber)
        rest = plan(SPREADING, position, FACTS).rest
        assert rest == plan(SPREADING, position, FACTS).rest
        assert isinstance(rest, Postpone)
        shares.append((rest.until - NOW) / timedelta(minutes=30))
    assert 0 <= min(shares) < 0.01 < 0.99 < max(shares) < 1
    # 200 a tenth expected; six standard deviations are 80.
    for tenth in range(10):
        assert 120 < sum(tenth <= share * 10 < tenth + 1 for share in shares) < 280


def test_a_mail_is_spread_once_and_its_lateness_still_counts_from_when_it_was_due() -> None:
    first = plan(SPREADING, due("hello", timedelta(hours=1)), FACTS).rest
    assert isinstance(first, Postpone)
    stored = json.loads(json.dumps(first.rule))
    back = replace(FRESH, step_id="hello", due_at=first.until, rule=stored)
    again = plan(SPREADING, back, Facts(first.until + timedelta(minutes=5))).rest
    assert isinstance(again, HandOff)
    assert again.due_at == NOW - timedelta(hours=1)
    much_later = plan(SPREADING, back, Facts(first.until + timedelta(hours=6)))
    assert [row.state for row in much_later.non_sends] == ["late"]


@given(st.integers(1, 1 << 62), st.timedeltas(timedelta(minutes=1), timedelta(hours=6)))
def test_spreading_never_makes_a_mail_too_late(subscriber: int, late: timedelta) -> None:
    rest = plan(SPREADING, due("hello", late, subscriber_id=subscriber), FACTS).rest
    if isinstance(rest, Postpone):
        assert rest.until - (NOW - late) <= timedelta(hours=6)
    else:
        assert isinstance(rest, HandOff)


def test_an_outcome_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="is no terminal state"):
        plan(SEQUENCE, at("hello", outcome="armed"), FACTS)


def test_a_circle_that_slipped_past_validation_ends_the_walk() -> None:
    sequence = replace(
        with_catch_up(max_lateness=timedelta(hours=1)),
        steps=(SendStep("a", "demo/a", "b"), SendStep("b", "demo/b", "a")),
    )
    with pytest.raises(ValueError, match="leads in a circle at 'a'"):
        plan(sequence, due("a", timedelta(hours=2)), FACTS)


BRANCHING = replace(
    SEQUENCE,
    steps=(
        BranchStep(
            "which",
            (
                Case(read("sub.country == 'NO'"), "set"),
                Case(read("score('churn', max_age='24h') >= 0.8"), "hello"),
            ),
            "end",
            "last",
        ),
        UpdateStep(
            "set",
            "hello",
            (("plan", "pro"), ("n", read("sub.n + 1", condition=False))),
            (("news", False),),
        ),
        *SEQUENCE.steps,
        ExitStep("end", "done"),
    ),
)
DAY = timedelta(days=1)


def knowing(**subscriber: Any) -> Facts:
    return Facts(NOW, known=Known(NOW, subscriber))


def test_a_branch_takes_the_first_case_that_holds_else_the_last_way() -> None:
    scored = Known(NOW, {"country": "SE"}, scores={("churn", DAY): Decimal("0.8")})
    low = replace(scored, scores={("churn", DAY): Decimal("0.79")})
    assert isinstance(plan(BRANCHING, FRESH, knowing(country="NO")).rest, Wait)
    rest = plan(BRANCHING, FRESH, Facts(NOW, known=scored)).rest
    assert isinstance(rest, HandOff)
    assert rest.step_id == "hello"
    made = plan(BRANCHING, FRESH, Facts(NOW, known=low))
    assert made.rest == Exit("end", "done")
    assert said(made) == [("branched", "which", "else"), ("exited", "end", "done")]


def test_a_missing_or_old_score_takes_the_stale_way() -> None:
    made = plan(BRANCHING, FRESH, knowing())
    assert isinstance(made.rest, HandOff)
    assert made.rest.step_id == "last"
    assert said(made)[0] == ("branched", "which", "on_stale")


def test_an_update_ends_the_look_and_the_next_one_goes_on_as_late_as_it_was() -> None:
    position = replace(FRESH, due_at=NOW - timedelta(hours=7))
    made = plan(BRANCHING, position, knowing(country="NO", n=Decimal(2)))
    assert made.update == Update("set", {"plan": "pro", "n": 3}, {"news": False})
    assert made.rest == Wait("set", position.due_at, {"kind": "updated"})
    late = replace(BRANCHING, catch_up=CatchUp(max_lateness=timedelta(hours=6)))
    back = at("set", due_at=made.rest.until, rule=made.rest.rule)
    again = plan(late, back, knowing(country="NO", n=3))
    assert [row.step_id for row in again.non_sends] == ["hello"]
    assert again.update is None


def test_an_update_with_what_is_missing_sets_null() -> None:
    made = plan(BRANCHING, FRESH, knowing(country="NO")).update
    assert made is not None
    assert made.attributes["n"] is None


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Decimal("2.50"), 2.5), (Decimal("4.0"), 4), (Decimal("1e400"), None), (True, True),
        (10**30, None), (-(10**30), None), (10**30 - 1, 10**30 - 1), (1 - 10**30, 1 - 10**30),
        ([Decimal("0.5"), {"a": Decimal(1)}], [0.5, {"a": 1}]), (NOW, "2026-03-27T18:00:00+00:00"),
    ],
)  # fmt: skip
def test_what_an_update_sets_is_what_json_can_hold(value: Any, stored: Any) -> None:
    step = UpdateStep("u", None, (("x", read("sub.v", condition=False)),))
    made = plan(replace(SEQUENCE, steps=(step,)), FRESH, knowing(v=value)).update
    assert made is not None
    # As text: to Python true is 1.
    assert json.dumps(made.attributes) == json.dumps({"x": stored})


@pytest.mark.parametrize(
    ("class_", "opted_in", "reason"),
    [
        ("marketing", True, None), ("marketing", False, "opted_out"), ("marketing", None, "not_opted_in"),
        ("transactional", True, None), ("transactional", False, None), ("transactional", None, None),
    ],
)  # fmt: skip
def test_marketing_asks_for_an_opt_in_and_nothing_else_does(
    class_: Any, opted_in: bool | None, reason: str | None
) -> None:
    sequence = replace(SEQUENCE, class_=class_)
    made = plan(sequence, FRESH, replace(FACTS, opted_in=opted_in))
    if reason is None:
        assert isinstance(made.rest, HandOff)
    else:
        assert made.rest == Exit("hello", reason)
        assert made.non_sends == (NonSend("hello", "demo/hello", "suppressed", reason),)


@pytest.mark.parametrize(
    ("late", "rest", "told"),
    [
        (timedelta(seconds=60), HandOff, {}),
        (timedelta(seconds=61), Postpone, {"late_s": 61}),
        (timedelta(hours=5, minutes=59), HandOff, {"late_s": 21_540}),
    ],
)
def test_what_is_a_minute_late_is_the_ordinary_work_and_no_spread_reaches_the_bound(
    late: timedelta, rest: type, told: dict[str, int]
) -> None:
    made = plan(SPREADING, due("hello", late), FACTS)
    assert isinstance(made.rest, rest)
    detail = made.decisions[-1].detail
    assert {key: detail[key] for key in detail if key == "late_s"} == told


def test_a_mail_that_was_not_put_off_is_due_when_it_is() -> None:
    position = replace(due("hello", timedelta(hours=1)), rule={"kind": "of another release"})
    rest = plan(SEQUENCE, position, FACTS).rest
    assert isinstance(rest, HandOff)
    assert rest.due_at == NOW - timedelta(hours=1)


def test_a_rule_of_time_in_the_sequence_ends_nobody_whose_entry_is_unknown() -> None:
    made = plan(replace(LEAVING, exits=LEAVING.exits[2:]), FRESH, FACTS)
    assert isinstance(made.rest, HandOff)


def test_the_log_names_the_case_the_first_score_that_is_missing_and_no_long_text() -> None:
    made = plan(BRANCHING, FRESH, knowing(country="NO"))
    assert made.decisions[0].detail["case"] == 1
    stale = read("score('a', max_age='1h') > 0 and score('b', max_age='1h') > 0")
    segment = read("segment('s', promoted=true) == 'high'")
    for condition, known, said_ in (
        (stale, Known(NOW), "score a"),
        (stale, Known(NOW, scores={("a", timedelta(hours=1)): Decimal(1)}), "score b"),
        (segment, Known(NOW), "segment s"),
    ):
        step = BranchStep("b", (Case(condition, "hello"),), "hello", "hello")
        told = plan(
            replace(SEQUENCE, steps=(step, *SEQUENCE.steps)), FRESH, Facts(NOW, known=known)
        )
        assert told.decisions[0].detail["said"] == f"{said_} is missing or too old"
    for length, shown in ((120, 120), (121, 120)):
        long = read("sub.a == 1 or sub.b == '" + "x" * (length - 25) + "'")
        assert len(long.source) == length
        step = BranchStep("b", (Case(long, "hello"),), "hello")
        told = plan(replace(SEQUENCE, steps=(step, *SEQUENCE.steps)), FRESH, knowing(a=1))
        said_ = told.decisions[0].detail["said"]
        assert len(said_) == shown and said_.endswith("…") == (length > 120)


def test_a_date_that_is_this_very_moment_is_past_and_a_long_zone_is_cut() -> None:
    at_eighteen = replace(
        SEQUENCE,
        steps=(WaitStep("trial", until_date=UntilDate("trial_ends", time(18), "skip")),),
    )
    made = plan(at_eighteen, replace(FRESH, zone="UTC"), knowing(trial_ends="2026-03-27"))
    assert said(made) == [("date_past", "trial", "until_date")]
    long = plan(SEQUENCE, at("nudge", outcome="sent", zone="X" * 65), FACTS)
    assert long.decisions[0].detail["zone"] == "X" * 64


def test_a_plan_without_the_facts_it_asks_for_is_refused() -> None:
    with pytest.raises(ValueError, match="facts that were not fetched"):
        plan(BRANCHING, FRESH, FACTS)


def until(offset: int = -3, missing: Any = "skip") -> Sequence:
    rule = UntilDate("trial_ends", time(9), missing, offset)
    return replace(
        SEQUENCE,
        steps=(WaitStep("trial", "mail", until_date=rule), SendStep("mail", "demo/mail")),
    )


@pytest.mark.parametrize(
    ("value", "zone", "instant"),
    [
        ("2026-04-03", "Europe/Berlin", "2026-03-31T07:00Z"),
        ("2026-04-03", "America/New_York", "2026-03-31T13:00Z"),
        ("2026-04-02T22:30:00Z", "Europe/Berlin", "2026-03-31T07:00Z"),
        ("2026-04-02T22:30:00Z", "America/New_York", "2026-03-30T13:00Z"),
    ],
)
def test_a_date_is_waited_for_on_the_calendar_of_the_subscriber(
    value: str, zone: str, instant: str
) -> None:
    made = plan(until(), replace(FRESH, zone=zone), knowing(trial_ends=value))
    assert isinstance(made.rest, Wait)
    assert made.rest.until == datetime.fromisoformat(instant)
    assert made.rest.rule["wall"].endswith("T09:00:00")
    assert made.rest.rule["zone"] == zone
    assert said(made) == [("waiting", "trial", "until_date")]


def test_a_date_in_a_gap_of_the_clock_is_the_first_instant_after_it() -> None:
    rule = UntilDate("trial_ends", time(2, 15), "skip")
    sequence = replace(SEQUENCE, steps=(WaitStep("trial", until_date=rule),))
    rest = plan(
        sequence, replace(FRESH, zone="Europe/Berlin"), knowing(trial_ends="2026-03-29")
    ).rest
    assert isinstance(rest, Wait)
    assert rest.until == datetime.fromisoformat("2026-03-29T01:00Z")


def test_a_date_that_is_past_goes_on_and_the_next_mail_is_late_from_there() -> None:
    made = plan(until(), replace(FRESH, zone="UTC"), knowing(trial_ends="2026-03-20"))
    assert isinstance(made.rest, Wait)
    assert made.rest.until == datetime.fromisoformat("2026-03-17T09:00Z")
    assert said(made) == [("date_past", "trial", "until_date")]
    bounded = replace(until(), catch_up=CatchUp(max_lateness=DAY))
    back = at("trial", due_at=made.rest.until, rule=made.rest.rule)
    assert [row.state for row in plan(bounded, back, knowing()).non_sends] == ["late"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "missing"),
        ("soon", "unreadable"),
        ("2026-02-30", "unreadable"),
        (20260403, "unreadable"),
    ],
)
def test_without_a_date_the_file_says_who_goes_on_and_who_leaves(value: Any, reason: str) -> None:
    goes_on = plan(until(), FRESH, knowing(trial_ends=value))
    assert isinstance(goes_on.rest, HandOff)
    assert said(goes_on)[0] == ("no_date", "trial", reason)
    assert plan(until(missing="exit"), FRESH, knowing(trial_ends=value)).rest == Exit(
        "trial", "no_date"
    )


LEAVING = replace(
    SEQUENCE,
    exits=(
        ExitRule("converted", event="purchase"),
        ExitRule("gone", when=read("sub.status != 'subscribed'")),
        ExitRule("expired", after=45 * DAY),
    ),
)


@pytest.mark.parametrize(
    ("happened", "status", "entered", "reason"),
    [
        ({"purchase"}, "stopped", 45 * DAY, "converted"),
        ({"other"}, "stopped", 45 * DAY, "gone"),
        (set(), "subscribed", 45 * DAY, "expired"),
        (set(), "subscribed", 45 * DAY - timedelta(seconds=1), None),
    ],
)
def test_the_first_exit_rule_that_holds_at_a_hand_off_gives_the_reason(
    happened: set[str], status: str, entered: timedelta, reason: str | None
) -> None:
    facts = replace(knowing(status=status), happened=frozenset(happened), stopped="unsubscribed")
    facts = replace(facts, stopped=None if reason is None else "unsubscribed")
    made = plan(LEAVING, replace(FRESH, entered_at=NOW - entered), facts)
    if reason is None:
        assert isinstance(made.rest, HandOff)
    else:
        assert made.rest == Exit("hello", reason)
        assert made.non_sends == ()


def test_a_pause_speaks_before_exit_rules_and_a_wait_asks_none() -> None:
    facts = replace(knowing(status="stopped"), happened=frozenset({"purchase"}))
    assert isinstance(plan(LEAVING, FRESH, replace(facts, paused=True)).rest, Park)
    assert isinstance(plan(LEAVING, at("hello", outcome="sent"), facts).rest, Wait)


def test_the_log_says_which_way_was_taken_and_why() -> None:
    facts = replace(knowing(status="subscribed"), happened=frozenset({"purchase"}))
    plans = (
        plan(BRANCHING, FRESH, knowing(country="NO", n=1)),
        plan(BRANCHING, FRESH, knowing()),
        plan(until(), replace(FRESH, zone="UTC"), knowing(trial_ends="2026-03-20")),
        plan(until(missing="exit"), FRESH, knowing()),
        plan(LEAVING, FRESH, facts),
    )
    lines = [
        sentence(line.kind, line.step_id, line.reason, line.detail)
        for made in plans
        for line in made.decisions
    ]
    assert lines == [
        "which: goes on to set, because sub.country == 'NO'",
        "set: changed plan, n, news",
        "which: goes on to last, because score churn is missing or too old",
        "last: the mail was handed over, to be sent by 2026-03-30 18:00:00 UTC at the latest",
        "trial: 2026-03-17 09:00:00 UTC is past already, so the way goes on",
        "trial: trial_ends holds no date (missing), so the sequence ends here",
        "left the sequence at trial: no date",
        "left the sequence at hello: converted (purchase happened)",
    ]


POSITIONS = st.builds(
    Position,
    enrollment_id=st.just(1),
    subscriber_id=st.integers(1, 1 << 62),
    entry_no=st.just(1),
    step_id=st.sampled_from([None, "gone", *(step.id for step in SEQUENCE.steps)]),
    started_at=st.sampled_from([None, NOW]),
    due_at=st.timedeltas(timedelta(), timedelta(days=2)).map(lambda late: NOW - late),
    outcome=st.sampled_from([None, "sent", "failed", "late", "suppressed", "expired"]),
    hard_bounce=st.booleans(),
    zone=st.sampled_from([None, "Asia/Tokyo", "Nowhere"]),
)


@given(POSITIONS, st.booleans(), st.sampled_from([None, "erased"]))
def test_every_position_comes_to_one_rest_and_every_decision_can_be_said(
    position: Position, paused: bool, stopped: str | None
) -> None:
    made = plan(SPREADING, position, Facts(NOW, paused, stopped))
    assert isinstance(made.rest, Await) or made.decisions
    assert not (paused and isinstance(made.rest, HandOff))
    assert not (stopped and isinstance(made.rest, HandOff))
    if isinstance(made.rest, Wait | Postpone):
        assert made.rest.until >= NOW
    for decision in made.decisions:
        stored = json.loads(json.dumps(decision.detail))
        line = sentence(decision.kind, decision.step_id, decision.reason, stored)
        assert line == sentence(decision.kind, decision.step_id, decision.reason, decision.detail)
        assert "unknown" not in line or decision.reason == "unknown"
        assert "\n" not in line


def test_the_log_says_why_in_plain_words() -> None:
    went_on = plan(SEQUENCE, at("hello", outcome="failed", outcome_reason="refused"), FACTS)
    local = plan(SEQUENCE, at("nudge", outcome="sent", zone="Mars/Olympus"), FACTS)
    late = plan(
        with_catch_up(max_lateness=timedelta(hours=6)), due("last", timedelta(hours=7)), FACTS
    )
    assert [
        sentence(line.kind, line.step_id, line.reason, line.detail)
        for made in (went_on, local, late)
        for line in made.decisions
    ] == [
        "hello: the mail ended failed, so the way goes on (refused)",
        "pause: waits until 2026-03-29 18:00:00 UTC",
        "morning: the zone of the subscriber is unknown, so Europe/Berlin is used",
        "morning: waits until 2026-03-29 07:30:00 UTC, which is 2026-03-29 09:30:00 in"
        " Europe/Berlin",
        "last: no mail (late), because of max lateness (25200 s late)",
        "left the sequence at last: completed",
    ]


def test_a_decision_of_another_release_can_still_be_said() -> None:
    assert sentence("became_{odd}", None, None, {}) == "the start: became_odd (no reason given)"


def test_five_hundred_plans_take_a_few_milliseconds() -> None:
    # The promise is 20 ms of a processor; the best of several rounds, since other work shares it.
    positions = [
        at("nudge", outcome="sent", zone="Asia/Tokyo", subscriber_id=n) for n in range(250)
    ]
    positions += [replace(FRESH, subscriber_id=n) for n in range(250)]
    rounds = []
    for _ in range(7):
        begun = clock.thread_time()
        for position in positions:
            plan(SEQUENCE, position, FACTS)
        rounds.append(clock.thread_time() - begun)
    assert min(rounds) < 0.020


def test_five_hundred_plans_through_a_branch_take_a_few_milliseconds_too() -> None:
    known = Known(NOW, {"country": "SE"}, scores={("churn", DAY): Decimal("0.9")})
    facts = replace(FACTS, known=known)
    rounds = []
    for _ in range(7):
        begun = clock.perf_counter()
        for n in range(500):
            plan(BRANCHING, replace(FRESH, subscriber_id=n), facts)
        rounds.append(clock.perf_counter() - begun)
    assert min(rounds) < 0.040
