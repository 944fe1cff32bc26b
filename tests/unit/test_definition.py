from __future__ import annotations

import json
from datetime import time, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.definition import (
    CatchUp,
    ExitStep,
    SendStep,
    Sequence,
    Timezone,
    WaitStep,
    successors,
)
from schedules.durations import LONGEST, format_duration, parse_clock, parse_duration

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
    ),
)


def test_a_definition_survives_the_database() -> None:
    assert Sequence.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL


def test_the_canonical_form_has_sorted_keys_and_its_schema_version() -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            assert list(value) == sorted(value)
            assert None not in value.values()
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
    assert [FULL.next_of(step.id) for step in FULL.steps] == ["b", "c", "d", None]
    assert successors(FULL.steps[0]) == ("b", "d")
    assert FULL.step("gone") is None


@pytest.mark.parametrize(
    "change", [{"schema": 2}, {"schema": None}, {"steps": None}, {"entry": {"x": 1}}]
)
def test_another_form_from_the_database_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="publish the sequence again"):
        Sequence.from_json(FULL.to_json() | change)


def test_a_definition_with_a_loose_end_cannot_exist() -> None:
    for steps in ((), (ExitStep("a", "x"),) * 2, (SendStep("a", "x/y", "b"),)):
        with pytest.raises(ValueError, match="'broken'"):
            Sequence("broken", "Broken", "transactional", steps)
    with pytest.raises(ValueError, match="both or neither"):
        WaitStep("w")


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
