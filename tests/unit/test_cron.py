from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.cron import Line, read, reads
from schedules.findings import DefinitionError
from schedules.fires import Fire, Judged, fires, judge, parse_cron
from schedules.localtime import resolve
from tasks import names

SHIPPED = Path(__file__).parents[2] / "schedules" / "cron.yaml"
LINE = "{key: news, cron: '0 9 * * MON', zone: Europe/Berlin, target: {sequence: a, audience: all}"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def first(cron: str, zone: str, after: str, n: int) -> list[datetime]:
    return [fire.at for fire in islice(fires(cron, zone, at(after)), n)]


def only(text: str) -> str:
    with pytest.raises(DefinitionError) as caught:
        reads(text, "cron.yaml")
    (finding,) = caught.value.findings
    return str(finding)


@pytest.mark.parametrize(
    ("cron", "zone", "after", "instants"),
    [
        # A time in a gap, then the same local time a day later.
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00Z", ["2026-03-08T07:00Z", "2026-03-09T06:30Z"]),
        ("15 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", ["2026-03-29T01:00Z", "2026-03-30T00:15Z"]),
        # An ambiguous one: its first occurrence, and no second.
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00Z", ["2026-11-01T05:30Z", "2026-11-02T06:30Z"]),
        ("15 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", ["2026-10-25T00:15Z", "2026-10-26T01:15Z"]),
        ("15 2 * * *", "Europe/Berlin", "2026-10-25T00:30Z", ["2026-10-26T01:15Z"]),
        ("0 9 * * *", "America/New_York", "2026-10-31T14:00Z", ["2026-11-01T14:00Z"]),
        # A Monday of Tokyo, which is a Sunday in UTC.
        ("0 8 * * mon", "Asia/Tokyo", "2026-11-17T12:00Z", ["2026-11-22T23:00Z", "2026-11-29T23:00Z"]),
        # Several times in one gap are one fire; an hour that comes twice is silent the second time.
        ("*/20 * * * *", "Europe/Berlin", "2026-03-29T00:30Z", ["2026-03-29T00:40Z", "2026-03-29T01:00Z", "2026-03-29T01:20Z"]),
        ("*/20 * * * *", "Europe/Berlin", "2026-10-25T00:10Z", ["2026-10-25T00:20Z", "2026-10-25T00:40Z", "2026-10-25T02:00Z"]),
        ("*/20 * * * *", "UTC", "2026-10-25T00:50Z", ["2026-10-25T01:00Z", "2026-10-25T01:20Z"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00Z", ["2028-02-29T00:00Z", "2032-02-29T00:00Z"]),
        ("0 12 L * *", "UTC", "2026-02-01T00:00Z", ["2026-02-28T12:00Z", "2026-03-31T12:00Z"]),
    ],
)  # fmt: skip
def test_a_line_fires_at_the_instants_of_the_local_time_rules(
    cron: str, zone: str, after: str, instants: list[str]
) -> None:
    assert first(cron, zone, after, len(instants)) == [at(each) for each in instants]


@settings(max_examples=60, deadline=None)
@given(
    minutes=st.sampled_from(["*", "*/7", "0", "30", "15,45"]),
    hours=st.sampled_from(["*", "1-3", "2", "0", "23,1"]),
    zone=st.sampled_from(
        ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "UTC"]
    ),
    # Around the days on which those zones change their clocks.
    start=st.sampled_from(["2026-03-08", "2026-03-29", "2026-04-05", "2026-09-06", "2026-10-04", "2026-10-25"]),
    shift=st.integers(-2000, 2000),
)  # fmt: skip
def test_every_wall_time_that_matches_fires_and_no_instant_fires_twice(
    minutes: str, hours: str, zone: str, start: str, shift: int
) -> None:
    after = at(start).replace(tzinfo=UTC) + timedelta(minutes=shift)
    end = after + timedelta(days=2)
    found = [
        f.at
        for f in takewhile(lambda f: f.at <= end, fires(f"{minutes} {hours} * * *", zone, after))
    ]
    assert all(one < two for one, two in pairwise(found))
    begin = (after - timedelta(days=2)).replace(tzinfo=None)
    walls = (begin + timedelta(minutes=n) for n in range(6 * 24 * 60))
    in_hours, in_minutes = matching(hours, 24), matching(minutes, 60)
    wanted = {resolve(w, zone) for w in walls if w.hour in in_hours and w.minute in in_minutes}
    assert found == sorted(each for each in wanted if after < each <= end)


def matching(field: str, size: int) -> set[int]:
    if field.startswith("*"):
        return set(range(0, size, int(field[2:] or 1)))
    if "-" in field:
        low, high = field.split("-")
        return set(range(int(low), int(high) + 1))
    return {int(each) for each in field.split(",")}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("@daily", "1 field"),
        ("0 0 9 * * MON", "6 fields"),
        ("61 * * * *", "bad minute"),
        ("0 0 * * SAT-SUN", "bad day-of-week"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("0 0 29 2 1#5", None),
        ("", "0 fields"),
        ("1," * 200 + "1 * * * *", "over 200 characters"),
    ],
)
def test_an_expression_that_is_none_says_why(text: str, why: str | None) -> None:
    if why is None:
        assert parse_cron(text) == text
        return
    with pytest.raises(ValueError, match=re.escape(f"({why}): expected five fields")):
        parse_cron(text)


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789*/-,#LWMONJAFEB ²", max_size=30))
def test_any_text_is_an_expression_or_a_value_error(text: str) -> None:
    try:
        found = parse_cron(text)
    except ValueError as error:
        assert "is not a cron expression" in str(error)
        return
    assert parse_cron(found) == found
    assert next(fires(found, "Europe/Berlin", at("2026-10-25T00:10Z"))).at > at("2026-10-25T00:10Z")


NOW = at("2026-11-22T12:00Z")


def due(*hours: float) -> list[Fire]:
    instants = [NOW - timedelta(hours=each) for each in hours]
    return [Fire(each.replace(tzinfo=None), each) for each in instants]


def reasons(judged: list[Judged]) -> list[str | None]:
    assert all((each.state == "missed") == (each.reason is not None) for each in judged)
    return [each.reason for each in judged]


def test_after_downtime_the_latest_runs_and_the_others_are_on_record() -> None:
    late = timedelta(hours=6)
    assert reasons(judge(due(9, 3, 1), NOW, "latest", late)) == ["too_late", "superseded", None]
    assert reasons(judge(due(9, 7), NOW, "latest", late)) == ["too_late", "too_late"]
    assert reasons(judge(due(3), NOW, "latest", late, more=True)) == ["superseded"]


def test_all_runs_each_that_is_not_too_late() -> None:
    found = judge(due(6.001, 6, 1, 0), NOW, "all", timedelta(hours=6))
    assert reasons(found) == ["too_late", None, None, None]


def test_skip_runs_only_what_is_on_time() -> None:
    found = judge(due(3, 0.02, 0.01, 0), NOW, "skip", timedelta(hours=6))
    assert reasons(found) == ["skipped", "skipped", None, None]


def test_the_shipped_file_loads_and_so_does_its_example() -> None:
    assert read(SHIPPED).lines == ()
    text = SHIPPED.read_text()
    example = text[text.index("# schedules:") : text.index("\nschedules: []")]
    line, *works = reads(re.sub(r"^# ?", "", example, flags=re.MULTILINE), "cron.yaml").lines
    assert {work.target["task"] for work in works} == names.SCHEDULED
    assert (line.catch_up, line.max_lateness, line.paused) == ("latest", timedelta(hours=6), False)


def test_a_line_needs_no_more_than_what_and_when() -> None:
    (line,) = reads(f"schedules:\n  - {LINE}}}\n", "cron.yaml").lines
    target = {"sequence": "a", "audience": "all"}
    assert line == Line("news", "0 9 * * MON", "Europe/Berlin", target)
    assert line.catch_up == "latest" and line.max_lateness == timedelta(hours=6)


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        (f"{LINE}, colour: red}}", "2:97: unknown key 'colour' in schedule 'news'"),
        (f"{LINE}, catch_up: always}}", "'catch_up' of schedule 'news' is 'always'"),
        (f"{LINE}, max_lateness: 5s}}", "expected at least 1m"),
        (f"{LINE}, paused: 'yes'}}", "expected true or false"),
        (LINE.replace("Europe/Berlin", "Berlin") + "}", "did you mean 'Europe/Berlin'?"),
        (LINE.replace("MON", "FUN") + "}", "2:23: 'cron' of schedule 'news': '0 9 * * FUN'"),
        (LINE.replace("audience: all", "segment: lapsed.x") + "}", ":2:90: 'segment' of 'target' of schedule 'news': "),
        (LINE.replace("audience: all", "audience: all, segment: 'true'") + "}", "both 'audience' and 'segment'"),
        (LINE.replace("audience: all", "segment: 'sub.a > 1 and'") + "}", ":2:104: 'segment' of 'target'"),
        (LINE.replace("audience: all", "audience: some") + "}", "expected all"),
        (LINE.replace("sequence: a, audience: all", "task: a, sequence: b") + "}", "unknown key 'sequence'"),
        (LINE.replace("sequence: a, audience: all", "audience: all") + "}", "has no 'sequence'"),
        ("{key: news}", None),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line_is_said_where_it_stands(line: str, finding: str | None) -> None:
    text = f"schedules:\n  - {line}\n"
    if finding is None:
        with pytest.raises(DefinitionError) as caught:
            reads(text, "cron.yaml")
        assert len(caught.value.findings) == 3
    else:
        assert finding in only(text)


def test_every_fault_of_a_file_is_told_at_once_and_a_key_stands_once() -> None:
    with pytest.raises(DefinitionError) as caught:
        reads(f"schedules:\n  - {LINE}, catch_up: no}}\n  - {LINE}}}\n", "cron.yaml")
    assert [finding.line for finding in caught.value.findings] == [2, 3]
    assert "stands twice" in str(caught.value)


def test_a_star_without_quotes_is_explained() -> None:
    found = only("schedules:\n  - key: news\n    cron: */10 * * * *\n    zone: UTC\n")
    assert found.startswith("cron.yaml:3:") and 'stands in quotes: "*/10 * * * *"' in found


@pytest.mark.parametrize("text", ["[]", "schedules: {}", "schedules:", "other: []", "", "a: ["])
def test_what_is_no_file_of_cron_lines_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError):
        reads(text, "cron.yaml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"none\.yaml:1:1: the file cannot be read"):
        read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"schedules:\n# \xe4\n")
    with pytest.raises(DefinitionError, match=r"latin\.yaml:2:1: the file is not UTF-8"):
        read(tmp_path / "latin.yaml")
