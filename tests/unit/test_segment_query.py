"""One query over everybody: each event is one scan, each fact one join, and nobody is looked up."""

from __future__ import annotations

import datetime as dt
import re

import pytest

from schedules.expression import read
from tasks.segment_query import segment_query

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
ALL = (
    "count('buy') > 1 and count('buy', within='3d') > 1 and days_since(last('buy')) < 3"
    " or count('see', within='9d') == 0 and count('see', within='30d') > 2"
    " or score('churn', max_age='1d') > 0.5 and score('churn', max_age='1d') < 0.9"
    " or segment('value', promoted=true) == 'high' and topic('news') and not in_segment('lapsed')"
)


def test_each_event_is_scanned_once_as_far_back_as_somebody_asks() -> None:
    sql, parameters = segment_query(read(ALL), now=NOW)
    buy, see = re.findall(r"\(SELECT x\.subscriber_id, .*? GROUP BY 1\)", sql)
    assert buy.count("count(*)") == 2 and buy.count("max(x.occurred_at)") == 1
    assert buy.count("occurred_at >") == 1, "of all time, but for the column that has a span"
    assert see.count("count(*) FILTER") == 2
    longest = re.search(r"make_interval\(secs => CAST\(:(\w+) AS float8\)\) GROUP BY", see)
    assert longest and parameters[longest[1]] == 30 * 86400


def test_what_is_asked_for_twice_is_joined_once() -> None:
    sql, _ = segment_query(read(ALL), now=NOW)
    for table in ("score", "segment_member", "consent", "segment_present"):
        assert sql.count(f"FROM {table} x") == 1, table


@pytest.mark.parametrize("condition", [ALL, "sub.a == 1", "topic('news')", "in_segment('a')"])
def test_nobody_is_looked_up(condition: str) -> None:
    """A subscriber's id stands in what is joined, and in no query of its own."""
    sql, _ = segment_query(read(condition), now=NOW)
    joined = re.sub(r"ON \w+\.subscriber_id = s\.id(?=\n)|s\.id AS subscriber_id", "", sql)
    assert "s.id" not in joined
