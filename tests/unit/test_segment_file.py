"""A segment file: what it may say, what is wrong with it and where, and who asks for whom."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from schedules.expression.evaluate import Known, holds
from schedules.findings import DefinitionError
from schedules.segment import as_condition, in_order, next_refresh, read, reads

NOW = dt.datetime(2026, 3, 28, 12, tzinfo=dt.UTC)
SHIPPED = sorted((Path(__file__).parents[2] / "schedules/segments").glob("*.yaml"))


def test_the_segments_that_are_shipped_are_sound() -> None:
    loaded = {path.stem: read(path).segment for path in SHIPPED}
    assert loaded and all(key == segment.key for key, segment in loaded.items())
    asks = {key: segment.when.needs.memberships for key, segment in loaded.items()}
    assert in_order(asks) == ["lapsed", "loyal", "silent"]


@pytest.mark.parametrize(
    ("said", "place", "words"),
    [
        ("key: a\ntitle: A\nwhen: sub.x = 1", "3:13", "write '=='"),
        ("key: a\ntitle: A\nwhen: in_segment('a')", "3:7", "asks for itself"),
        ("key: a\ntitle: A\nwhen: in_segment(sub.a)", "3:18", "expected in_segment('lapsed')"),
        ("key: a\ntitle: A\nwhen: count('x')", "3:7", "a yes or no"),
        ("key: a\ntitle: A\nwhen: event.plan == 'x'", "3:7", "there is no event"),
        ("key: a\ntitle: A\nwhen: sub.a\nrefresh: 30s", "4:10", "at least 1m"),
        ("key: a\ntitle: A\nwhen: sub.a\nrefresh: 0 6 * *", "4:10", "4 fields"),
        ("key: a\ntitle: A\nwhen: sub.a\nzone: Berlin", "4:7", "did you mean"),
        ("key: a\ntitle: A\nwen: sub.a", "3:1", "did you mean 'when'"),
        ("title: A\nwhen: sub.a", "1:1", "has no 'key'"),
        ("- a", "1:1", "no mapping"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(said: str, place: str, words: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        reads(said, "a.yaml")
    assert any(
        str(finding).startswith(f"a.yaml:{place}: ") and words in finding.message
        for finding in caught.value.findings
    ), caught.value


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="cannot be read"):
        read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"key: a\ntitle: \xe9\n")
    with pytest.raises(DefinitionError, match=r"latin\.yaml:2:1: the file is not UTF-8"):
        read(tmp_path / "latin.yaml")


def test_it_is_due_by_its_interval_or_by_the_local_time_of_its_cron_expression() -> None:
    assert next_refresh("90m", "UTC", NOW) == NOW + dt.timedelta(minutes=90)
    # Clocks go forward in between: 06:00 in Berlin is 04:00Z on the 29th.
    assert next_refresh("0 6 * * *", "Europe/Berlin", NOW) == dt.datetime(
        2026, 3, 29, 4, tzinfo=dt.UTC
    )


def test_a_circle_is_named_whole() -> None:
    assert in_order({"c": ["b"], "b": ["a"], "a": ["gone"]}) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="circle: 'b' → 'c' → 'd' → 'b'"):
        in_order({"a": ["b"], "b": ["c"], "c": ["d"], "d": ["b"]})


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("lapsed", "in_segment('lapsed')"), (" very-loyal ", "in_segment('very-loyal')"),
        ("true", "true"), ("sub.vip", "sub.vip"), ("not in_segment('a')", "not in_segment('a')"),
    ],
)  # fmt: skip
def test_the_key_of_a_segment_alone_is_the_condition_to_be_in_it(said: str, meant: str) -> None:
    assert as_condition(said) == meant


def test_to_be_in_a_segment_is_a_yes_or_no_that_is_never_stale() -> None:
    when = reads("key: a\ntitle: A\nwhen: \"in_segment('b') and not in_segment('c')\"", "a.yaml")
    root = when.segment.when.root
    assert when.segment.when.needs.memberships == {"b", "c"}
    assert holds(root, Known(NOW, memberships=frozenset({"b"}))) is True
    assert holds(root, Known(NOW)) is False
    assert holds(root, Known(NOW, memberships=frozenset({"b", "c"}))) is False
