from __future__ import annotations

import json
from datetime import time, timedelta
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
    successors,
)
from schedules.durations import (
    LONGEST,
    format_duration,
    format_offset,
    parse_clock,
    parse_duration,
    parse_offset,
)
from schedules.expression import Needs, read

FULL = Sequence(
    key="full",
    title="Über alles",
    class_="marketing",
    topic="product-news",
    priority=70,
    timezone=Timezone(fallback="Asia/Tokyo"),
    catch_up=CatchUp(timedelta(hours=6), "exit", timedelta(minutes=30)),
    steps=(
        SendStep("a", "full/a", "b", "d", timedelta(hours=1), "send"),
        WaitStep("b", "c", delay=timedelta(days=2)),
        WaitStep("c", "d", calendar_days=2, at=time(9, 30)),
        ExitStep("d", "completed"),
        WaitStep("e", "f", until_date=UntilDate("trial_ends", time(9), "skip", -3)),
        BranchStep(
            "f",
            (
                Case(read("score('churn', max_age='24h') >= 0.8"), "g"),
                Case(read("sub.country == 'NO'"), "d"),
            ),
            "g",
            "d",
        ),
        UpdateStep(
            "g",
            None,
            (("plan", None), ("seen", True), ("n", read("sub.n + 1", condition=False))),
            (("news", True), ("offers", False)),
        ),
    ),
    exits=(
        ExitRule("converted", event="purchase"),
        ExitRule("gone", when=read("sub.status != 'subscribed' or topic('t')")),
        ExitRule("expired", after=timedelta(days=45)),
    ),
)


def test_a_definition_survives_the_database() -> None:
    assert Sequence.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL


def test_the_canonical_form_has_sorted_keys_and_its_schema_version() -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            assert list(value) == sorted(value)
            assert None not in [value[key] for key in value if key != "value"]
            for inner in value.values():
                check(inner)
        elif isinstance(value, list):
            for inner in value:
                check(inner)

    check(FULL.to_json())
    assert FULL.to_json()["schema"] == 1
    assert json.loads(FULL.canonical()) == FULL.to_json()


def test_every_step_knows_what_follows_it() -> None:
    assert FULL.first == "a"
    assert [FULL.next_of(step.id) for step in FULL.steps] == ["b", "c", "d", None, "f", "g", None]
    assert successors(FULL.steps[0]) == ("b", "d")
    assert successors(FULL.steps[5]) == ("g", "d")
    assert FULL.step("gone") is None


def test_a_definition_knows_what_its_expressions_need() -> None:
    assert FULL.needs == Needs(
        subscriber=True,
        scores=frozenset({("churn", timedelta(days=1))}),
        topics=frozenset({"t"}),
    )
    assert not Sequence("k", "K", "transactional", (FULL.steps[1], *FULL.steps[2:4])).needs


def test_a_definition_without_the_newer_kinds_has_the_form_it_always_had() -> None:
    plain = Sequence("k", "K", "transactional", FULL.steps[3:4])
    assert plain.canonical() == (
        '{"catch_up":{"on_late":"skip"},"class":"transactional","entry":{"manual":true},"key":"k",'
        '"priority":50,"schema":1,"steps":[{"exit":{"reason":"completed"},"id":"d"}],'
        '"timezone":{"fallback":"UTC","source":"subscriber"},"title":"K"}'
    )


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"schema": None},
        {"steps": None},
        {"entry": {"x": 1}},
        {"exit": [{"reason": "x", "when": "no language"}]},
    ],
)
def test_another_form_from_the_database_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="publish the sequence again"):
        Sequence.from_json(FULL.to_json() | change)


def test_a_definition_with_a_loose_end_cannot_exist() -> None:
    for steps in ((), (ExitStep("a", "x"),) * 2, (SendStep("a", "x/y", "b"),)):
        with pytest.raises(ValueError, match="'broken'"):
            Sequence("broken", "Broken", "transactional", steps)
    with pytest.raises(ValueError, match="none or several"):
        WaitStep("w")
    with pytest.raises(ValueError, match="none or several"):
        ExitRule("x", event="a", after=timedelta(days=1))
    with pytest.raises(ValueError, match="expected on_stale"):
        BranchStep("b", (Case(read("score('c', max_age='1h') > 1"), "x"),), "x")


@pytest.mark.parametrize(
    ("text", "seconds"), [("20s", 20), ("5m", 300), ("2h", 7200), ("3d", 259_200), ("1w", 604_800)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)
    assert format_duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    "text", ["", "20", "0s", "-1s", "1.5h", "1h30m", "2 d", "9999d", "1y", "٣s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.integers(1, int(LONGEST.total_seconds())))
def test_writing_and_reading_a_duration_is_the_identity(seconds: int) -> None:
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["9:30", "24:00", "09:60", "0930", "09:30:00", " 09:30"])
def test_what_is_no_time_of_day_is_refused(text: str) -> None:
    assert parse_clock("09:30") == time(9, 30)
    with pytest.raises(ValueError, match="is not a time of day"):
        parse_clock(text)


@pytest.mark.parametrize(("text", "days"), [("-3d", -3), ("2d", 2), ("+1w", 7), ("-2w", -14)])
def test_an_offset_is_whole_days_before_or_after(text: str, days: int) -> None:
    assert parse_offset(text) == days
    assert parse_offset(format_offset(days)) == days


@pytest.mark.parametrize("text", ["3", "-3h", "0d", "--3d", "9999w", "- 3d"])
def test_what_is_no_offset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no offset"):
        parse_offset(text)
