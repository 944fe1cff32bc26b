"""Quiet hours and windows are what the clocks of the subscriber show, also where they are moved."""

from __future__ import annotations

import time as clock
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.limits import Hours, Limits, SendWindow
from schedules.localtime import add_calendar_days, local, resolve
from schedules.windows import next_open, next_window, open_spans

NIGHT = Hours(time(21), time(8))
OFFICE = SendWindow((0, 1, 2, 3, 4), Hours(time(8), time(19)))
DAY = timedelta(days=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def spans(limits: Limits, zone: str, start: str, end: str) -> list[str]:
    found = open_spans(limits, zone, utc(start), utc(end))
    return [f"{a:%d %H:%M}-{b:%d %H:%M}" for a, b in found]


@pytest.mark.parametrize(
    ("zone", "wall", "instant"),
    [
        ("America/New_York", "2026-03-08 02:30", "2026-03-08T07:00"),
        ("America/New_York", "2026-11-01 01:30", "2026-11-01T05:30"),
        ("America/New_York", "2026-11-01 09:00", "2026-11-01T14:00"),
        ("Europe/Berlin", "2026-03-29 02:15", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-10-25 02:15", "2026-10-25T00:15"),
        ("Asia/Tokyo", "2026-11-23 08:00", "2026-11-22T23:00"),
    ],
)
def test_the_vectors_of_local_time_hold_for_waits_and_for_windows(
    zone: str, wall: str, instant: str
) -> None:
    at = datetime.fromisoformat(wall)
    assert resolve(at, zone) == utc(instant)
    # A window that begins at that wall time opens at that instant.
    opens = Limits(send_window=SendWindow((at.weekday(),), Hours(at.time(), time(22))))
    assert next_open(opens, zone, utc(instant) - timedelta(hours=12)) == utc(instant)


def test_two_calendar_days_over_a_clock_change_are_no_48_hours() -> None:
    before = utc("2026-10-31T13:00")  # 09:00 in New York
    assert add_calendar_days(before, "America/New_York", 2, None) - before == timedelta(hours=49)


def test_quiet_hours_are_local_half_open_and_may_cross_midnight() -> None:
    quiet = Limits(quiet_hours=NIGHT)
    found = spans(quiet, "Asia/Tokyo", "2026-11-22T00:00", "2026-11-24T00:00")
    assert found == ["22 00:00-22 12:00", "22 23:00-23 12:00", "23 23:00-24 00:00"]
    last, first = utc("2026-11-22T11:59:59"), utc("2026-11-22T23:00")
    assert next_open(quiet, "Asia/Tokyo", last) == last
    assert next_open(quiet, "Asia/Tokyo", last + timedelta(seconds=1)) == first
    assert next_open(quiet, "Asia/Tokyo", first) == first


def test_weekdays_are_local_weekdays() -> None:
    monday = Limits(send_window=SendWindow((0,)))
    # It is Monday in Tokyo from Sunday 15:00 in Greenwich on.
    assert next_open(monday, "Asia/Tokyo", utc("2026-11-21T00:00")) == utc("2026-11-22T15:00")
    assert spans(monday, "Asia/Tokyo", "2026-11-21T00:00", "2026-11-24T00:00") == [
        "22 15:00-23 15:00"
    ]


def test_quiet_hours_in_an_hour_that_comes_twice_are_quiet_both_times() -> None:
    quiet = Limits(quiet_hours=Hours(time(1), time(1, 30)))
    found = spans(quiet, "America/New_York", "2026-11-01T04:00", "2026-11-01T08:00")
    assert found == ["01 04:00-01 05:00", "01 05:30-01 06:00", "01 06:30-01 08:00"]


def test_a_window_in_an_hour_that_is_leapt_over_opens_the_next_day_it_is_there() -> None:
    leapt = Limits(send_window=SendWindow(hours=Hours(time(2), time(3))))
    assert next_open(leapt, "America/New_York", utc("2026-03-08T05:00")) == utc("2026-03-09T06:00")
    sundays = Limits(send_window=SendWindow((6,), Hours(time(2), time(3))))
    assert next_open(sundays, "America/New_York", utc("2026-03-07T12:00")) == utc(
        "2026-03-15T06:00"
    )


def test_a_window_that_crosses_midnight_belongs_to_the_day_it_begins() -> None:
    late = Limits(send_window=SendWindow((4,), Hours(time(22), time(2))))
    found = spans(late, "UTC", "2026-11-26T00:00", "2026-11-30T00:00")  # Thursday to Sunday
    assert found == ["27 22:00-28 02:00"]


def test_the_next_window_is_not_the_one_that_is_open() -> None:
    both = Limits(NIGHT, OFFICE)
    friday = utc("2026-11-27T10:00")
    assert next_window(both, "Europe/Berlin", friday) == utc("2026-11-30T07:00")
    saturday = utc("2026-11-28T10:00")
    assert next_window(both, "Europe/Berlin", saturday) == utc("2026-11-30T07:00")
    with pytest.raises(ValueError, match="no next window"):
        next_window(Limits(send_window=SendWindow()), "UTC", friday)


def test_hours_that_leave_nothing_are_refused_and_not_waited_for() -> None:
    nothing = Limits(NIGHT, SendWindow(hours=Hours(time(22), time(23))))
    with pytest.raises(ValueError, match="leave no hour"):
        next_open(nothing, "UTC", utc("2026-11-27T10:00"))


HOURS = st.tuples(st.integers(0, 47), st.integers(0, 47)).filter(lambda two: two[0] != two[1])
LIMITS = st.builds(
    lambda quiet, window, days: Limits(
        Hours(*(time(n // 2, n % 2 * 30) for n in quiet)) if quiet else None,
        SendWindow(
            tuple(sorted(days)),
            Hours(*(time(n // 2, n % 2 * 30) for n in window)) if window else None,
        ),
    ),
    st.none() | HOURS,
    st.none() | HOURS,
    st.sets(st.integers(0, 6), min_size=1),
)


@given(
    LIMITS,
    st.sampled_from(
        ["America/New_York", "Europe/Berlin", "Asia/Tokyo", "Australia/Lord_Howe", "Asia/Kolkata"]
    ),
    st.sampled_from(["2026-03-07", "2026-03-28", "2026-04-04", "2026-10-03", "2026-10-24", "2026-10-31"]),
    st.lists(st.integers(0, 4 * 86_400 - 1), min_size=1, max_size=20),
)  # fmt: skip
def test_an_instant_is_open_if_and_only_if_the_clocks_there_say_so(
    limits: Limits, zone: str, start: str, seconds: list[int]
) -> None:
    begin = utc(start)
    found = open_spans(limits, zone, begin, begin + 4 * DAY)
    assert all(a < b for a, b in found)
    assert all(one[1] < two[0] for one, two in pairwise(found))
    for at in (begin + timedelta(seconds=n) for n in seconds):
        inside = any(a <= at < b for a, b in found)
        assert inside == limits.open_at(local(at, zone))


def test_five_hundred_looks_at_windows_take_a_few_milliseconds() -> None:
    both, now = Limits(NIGHT, OFFICE), utc("2026-11-27T10:00")
    rounds = []
    for _ in range(5):
        begun = clock.perf_counter()
        for n in range(500):
            at = now + timedelta(seconds=n)
            next_open(both, "Europe/Berlin", at)
            open_spans(both, "Europe/Berlin", at, at + 3 * DAY)
        rounds.append(clock.perf_counter() - begun)
    assert min(rounds) < 0.040
