from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, datetime, time, timedelta
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules import localtime
from schedules.localtime import (
    TZDATA_VERSION,
    UnknownZone,
    add_calendar_days,
    calendar_wall,
    is_zone,
    local,
    resolve,
    zones,
)

ZONES = st.sampled_from(sorted(zones()))
WALLS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))  # noqa: DTZ001
INSTANTS = st.datetimes(
    datetime(1900, 1, 1),  # noqa: DTZ001
    datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("zone", "wall", "instant"),
    [
        ("America/New_York", "2026-03-08T02:30", "2026-03-08T07:00Z"),
        ("America/New_York", "2026-11-01T01:30", "2026-11-01T05:30Z"),
        ("America/New_York", "2026-11-01T09:00", "2026-11-01T14:00Z"),
        ("Europe/Berlin", "2026-03-29T02:15", "2026-03-29T01:00Z"),
        ("Europe/Berlin", "2026-10-25T02:15", "2026-10-25T00:15Z"),
        ("Asia/Tokyo", "2026-11-23T08:00", "2026-11-22T23:00Z"),
        # Half an hour of summer time, a whole date that never was, and both edges of a gap.
        ("Australia/Lord_Howe", "2026-10-04T02:10", "2026-10-03T15:30Z"),
        ("Pacific/Apia", "2011-12-30T12:00", "2011-12-30T10:00Z"),
        ("Europe/Berlin", "2026-03-29T02:00", "2026-03-29T01:00Z"),
        ("Europe/Berlin", "2026-03-29T02:59:59.999999", "2026-03-29T01:00Z"),
        ("Europe/Berlin", "2026-03-29T03:00", "2026-03-29T01:00Z"),
        ("Europe/Berlin", "2026-03-29T01:59:59.5", "2026-03-29T00:59:59.5Z"),
    ],
)
def test_a_wall_time_is_the_instant_of_the_rules(zone: str, wall: str, instant: str) -> None:
    assert resolve(at(wall), zone) == at(instant)


def test_an_ambiguous_time_is_its_first_occurrence_whatever_fold_says() -> None:
    wall = at("2026-10-25T02:15")
    assert resolve(wall.replace(fold=1), "Europe/Berlin") == resolve(wall, "Europe/Berlin")


@given(wall=WALLS, zone=ZONES)
def test_every_wall_time_has_an_instant_in_every_zone(wall: datetime, zone: str) -> None:
    instant = resolve(wall, zone)
    assert instant.utcoffset() == timedelta()
    shown = local(instant, zone)
    # Either the clock shows it, or it is in a gap and the clock has just jumped over it.
    if shown != wall:
        assert shown > wall
        assert local(instant - timedelta(microseconds=1), zone) < wall


@given(instant=INSTANTS, zone=ZONES)
def test_an_instant_survives_the_way_to_the_wall_and_back_unless_it_is_a_second_occurrence(
    instant: datetime, zone: str
) -> None:
    back = resolve(local(instant, zone), zone)
    if back != instant:
        assert back < instant
        assert local(back, zone) == local(instant, zone)


@given(
    start=WALLS,
    steps=st.lists(st.timedeltas(timedelta(), timedelta(hours=5)), min_size=1, max_size=8),
    zone=ZONES,
)
def test_later_on_the_wall_is_never_earlier_in_time(
    start: datetime, steps: list[timedelta], zone: str
) -> None:
    walls = [start]
    for step in steps:
        walls.append(walls[-1] + step)
    for earlier, later in pairwise(walls):
        assert resolve(earlier, zone) <= resolve(later, zone)


def test_calendar_days_count_local_dates_and_not_hours() -> None:
    friday = at("2026-03-27T18:00Z")  # 19:00 in Berlin, which loses an hour on Sunday
    assert add_calendar_days(friday, "Europe/Berlin", 2, None) == at("2026-03-29T17:00Z")
    assert add_calendar_days(friday, "Europe/Berlin", 2, time(9, 30)) == at("2026-03-29T07:30Z")
    assert add_calendar_days(friday, "Asia/Tokyo", 2, time(9, 30)) == at("2026-03-30T00:30Z")


def test_the_wall_time_of_a_rule_is_kept_even_where_it_does_not_exist() -> None:
    day_before = at("2026-03-28T12:00Z")
    assert calendar_wall(day_before, "Europe/Berlin", 1, time(2, 15)) == at("2026-03-29T02:15")
    assert add_calendar_days(day_before, "Europe/Berlin", 1, time(2, 15)) == at("2026-03-29T01:00Z")


@pytest.mark.parametrize(
    "name",
    [None, "", "Mars/Olympus", "europe/berlin", "../etc/passwd", "Europe", "Factory", "+01:00"],
)
def test_what_is_no_zone_is_told_apart_and_named(name: str | None) -> None:
    assert not is_zone(name)
    with pytest.raises(UnknownZone, match="expected an IANA name"):
        resolve(at("2026-01-01T00:00"), name or "")


def test_naive_and_aware_are_not_mixed_up() -> None:
    with pytest.raises(ValueError, match="carries a zone"):
        resolve(at("2026-01-01T00:00Z"), "UTC")
    with pytest.raises(ValueError, match="is no instant"):
        local(at("2026-01-01T00:00"), "UTC")


def test_zones_come_from_the_package_and_never_from_the_machine(tmp_path: Path) -> None:
    zone, noon = "Antarctica/Troll", at("2026-07-01T12:00")
    lie = resources.files("tzdata").joinpath("zoneinfo", "Etc", "UTC").read_bytes()
    (tmp_path / "Antarctica").mkdir()
    (tmp_path / zone).write_bytes(lie)
    try:
        zoneinfo.reset_tzpath([tmp_path])
        localtime._zone.cache_clear()
        machine = noon.replace(tzinfo=zoneinfo.ZoneInfo.no_cache(zone))
        assert machine == at("2026-07-01T12:00Z")  # the lie is believed there
        assert resolve(noon, zone) == at("2026-07-01T10:00Z")
    finally:
        zoneinfo.reset_tzpath()


def test_the_release_of_the_zone_data_is_known() -> None:
    assert re.fullmatch(r"20[0-9]{2}[a-z]+", TZDATA_VERSION)
