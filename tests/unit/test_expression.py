from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.expression import ExpressionError, read
from schedules.expression.evaluate import STALE, Known, evaluate, holds

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KNOWN = Known(
    NOW,
    subscriber={
        "first_name": "Zoë", "status": "subscribed", "created_at": NOW - 10 * DAY,
        "country": "DE", "age": 30, "fine": Decimal("1.1234567890123456789012345678901234"), "ratio": Decimal("0.1"), "vip": True, "no": False,
        "tags": ["a", 1, True], "nested": {"a": 1}, "none": None, "plan name": "pro",
        "trial_ends": "2026-02-26", "seen": "2026-02-28T13:00+01:00", "odd": "2026-02-30",
    },
    counts={("purchase", 90 * DAY): 2},
    lasts={"purchase": NOW - 3 * DAY - timedelta(hours=1)},
    scores={("churn", DAY): Decimal("0.7")},
    segments={"value": "high"},
    topics={"news": True, "offers": False},
)  # fmt: skip


def value(source: str, known: Known = KNOWN) -> Any:
    return evaluate(read(source, condition=False).root, known)


def mistake(source: str, **wants: bool) -> tuple[int, str]:
    with pytest.raises(ExpressionError) as caught:
        read(source, **wants)
    return caught.value.at, str(caught.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("-sub.age + 1", -29),
        ("1 - 2 - 3", -4),
        ("-sub.fine == 0 - sub.fine", True),
        ("-123456789012345.123456789012345 < -123456789012345.123456789012344", True),
        ("0.1 + 0.2 == 0.3", True),
        ("sub.ratio + 0.2 == 0.3", True),
        ("true or false and false", True),
        ("not sub.vip or sub.vip", True),
        ("not sub.country == 'AT'", True),
        ("sub.country in ['DE', 'AT']", True),
        ("sub.country not in ['DE', 'AT']", False),
        ("sub.age in [29, 30.0]", True),
        ("'a' in sub.tags", True),
        ("sub['plan name'] == \"pro\"", True),
        ("count('purchase', within='90d') >= 2 and count('other') == 0", True),
        ("days_since(last('purchase'))", 3),
        ("days_since(last('never'))", None),
        ("days_since(sub.trial_ends)", 3),
        ("days_since(sub.seen)", 1),
        ("days_since(sub.odd) == null", True),
        ("days_since('2026-03-02')", -1),
        ("last('purchase') > sub.created_at", True),
        ("score('churn', max_age='24h') >= 0.6", True),
        ("segment('value', promoted=true) == 'high'", True),
        ("topic('news') and not topic('offers') and not topic('unasked')", True),
        ("sub.status == 'subscribed'", True),
        ("'Zoë' == sub.first_name", True),
        ("sub.country < 'DF' and sub.country >= 'DE'", True),
    ],
)
def test_an_expression_means_what_it_says(source: str, expected: Any) -> None:
    assert value(source) == expected
    assert type(value(source)) is type(expected)


@pytest.mark.parametrize(
    "source",
    [
        "sub.missing == 'x'", "sub.missing != 'x'", "sub.missing < 1", "sub.missing >= 1",
        "sub.missing in ['x']", "sub.missing not in ['x']", "sub.none == sub.missing",
        "sub.none != sub.missing", "'x' in sub.missing", "'x' not in sub.missing",
        "sub.missing + 1 > 0", "sub.missing", "last('never') < sub.created_at",
    ],
)  # fmt: skip
def test_a_comparison_with_null_is_no(source: str) -> None:
    assert holds(read(source).root, KNOWN) is False


def test_null_is_asked_for_by_name() -> None:
    assert value("sub.missing == null") is True
    assert value("sub.none == null") is True
    assert value("null != sub.none") is False
    assert value("sub.country != null") is True
    assert value("last('never') == null") is True


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("sub.age == '30'", False),
        ("sub.age != '30'", True),
        ("sub.age < '31'", False),
        ("sub.country > 1", False),
        ("sub.vip == 1", False),
        ("1 in sub.tags", True),
        ("sub.vip in sub.tags", True),
        ("sub.no in [0, 'false']", False),
        ("sub.tags == sub.tags", False),
        ("sub.nested != 'x'", True),
        ("sub.country in sub.nested", False),
        ("sub.country not in sub.age", True),
        ("sub.country + 1 == null", True),
        ("sub.age and sub.country", False),
    ],
)
def test_kinds_are_never_converted(source: str, expected: bool) -> None:
    assert holds(read(source).root, KNOWN) is expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("score('old', max_age='1h') > 0.5", STALE),
        ("score('churn', max_age='1h') > 0.5", STALE),
        ("segment('other', promoted=true) != 'high'", STALE),
        ("not score('old', max_age='1h') + 1 > 0", STALE),
        ("sub.vip and score('old', max_age='1h') > 0", STALE),
        ("score('old', max_age='1h') > 0 and sub.no", False),
        ("score('old', max_age='1h') > 0 or sub.vip", True),
        ("score('old', max_age='1h') in [1, 2] or sub.no", STALE),
    ],
)
def test_what_cannot_be_decided_without_a_fresh_score_is_stale(source: str, expected: Any) -> None:
    assert holds(read(source).root, KNOWN) is expected


@pytest.mark.parametrize(
    ("source", "at", "words"),
    [
        ("", 0, "it ends too early"),
        ("sub.a ==", 8, "it ends too early"),
        ("sub.a = 1", 6, "write '=='"),
        ("sub.a && true", 6, "write 'and'"),
        ("sub.a is null", 6, "write '=='"),
        ("sub.a == None", 9, "write 'null'"),
        ("1 < sub.a < 3", 10, "comparisons do not chain"),
        ("country == 'DE'", 0, "'country' is no name: expected sub.<attribute>"),
        ("sub.a == 'DE", 9, "does not end"),
        ("sub.a > 30d", 8, "a number ends in letters"),
        ("sub.a > 1234567890123456", 8, "too long"),
        ("sub.__class__.x == 1", 13, "has no parts"),
        ("sub.a.b == 1", 5, "has no parts"),
        ("__import__('os')", 0, "is no call of the language"),
        ("counts('x') > 1", 0, "did you mean count()?"),
        ("count() > 1", 0, "count() is empty"),
        ("count(sub.a) > 1", 6, "something else than a name"),
        ("count('x', within=3) > 1", 11, "'within' is no text"),
        ("count('x', within='3y') > 1", 11, "is not a duration"),
        ("count('x', since='3d') > 1", 11, "no option 'since'"),
        ("count('x', within='1d', within='2d') > 1", 24, "stands twice"),
        ("score('churn') > 0.5", 0, "does not say how old it may be"),
        ("segment('value') == 'x'", 0, "does not say which run counts"),
        ("segment('value', promoted=false) == 'x'", 17, "promoted=true"),
        ("score('c', max_age='1d') == null", 25, "never null"),
        ("in_segment()", 0, "is empty"),
        ("event.plan == 'free'", 0, "there is no event"),
        ("sub.address == 'x'", 0, "cannot be asked for"),
        ("sub.status == 'gone'", 14, "sub.status is never 'gone'"),
        ("sub.status in ['stopped', 'gone']", 14, "sub.status is never 'gone'"),
        ("count('x')", 0, "expected a comparison"),
        ("sub.a and 'x'", 10, "expected a comparison"),
        ("not 1", 4, "expected a comparison"),
        ("count('x') == 'three'", 14, "the answer is always no"),
        ("count('x') in ['three']", 14, "the answer is always no"),
        ("last('x') > '2026-01-01'", 12, "days_since"),
        ("last('x') > sub.day", 12, "days_since"),
        ("days_since('tomorrow') > 1", 11, "no date"),
        ("days_since(3) > 1", 11, "no date"),
        ("sub.a + 'x' > 1", 8, "expected a number"),
        ("topic('a') > 1", 0, "has no order"),
        ("(sub.a > 1) == true", 7, "is a yes or no already"),
        ("sub.a in 'DE'", 9, "expected a list"),
        ("sub.a in []", 9, "the list is empty"),
        ("sub.a in [null]", 10, "expected a number, a text"),
        ("['a'] == sub.a", 0, "a list stands alone"),
        ("null in sub.a", 0, "null is in no list"),
        ("(" * 41 + "true" + ")" * 41, 40, "nested more than 40 deep"),
        ("not " * 41 + "true", 160, "nested more than 40 deep"),
        ("true or " * 150 + "true", 800, "at most 200"),
        ("'" + "x" * 2000 + "'", 2000, "at most 2000"),
        ("sub.a == 'x\x07'", 9, "control character"),
        ("sub.a / 2 > 1", 6, "there is no division"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(source: str, at: int, words: str) -> None:
    found = mistake(source)
    assert words in found[1]
    assert found[0] == at
    assert "\n" not in found[1]


def test_an_event_can_be_asked_for_where_there_is_one() -> None:
    expression = read("event.plan != 'free' and event.amount > 9.5", event=True)
    known = Known(NOW, event={"plan": "pro", "amount": 9.6})
    assert holds(expression.root, known) is True


def test_a_score_is_refused_where_nothing_says_what_happens_when_it_is_stale() -> None:
    assert mistake("sub.a and score('c', max_age='1d') > 1", scores=False)[0] == 10


def test_what_is_needed_is_named_so_that_it_can_be_fetched_for_many() -> None:
    needs = read(
        "sub.a == 1 and count('x', within='2d') > count('y') and days_since(last('z')) > 1"
        " and score('c', max_age='1h') > 0 and segment('v', promoted=true) == 'w' and topic('t')"
    ).needs
    assert needs.subscriber
    assert needs.counts == {("x", 2 * DAY), ("y", None)}
    assert [set(found) for found in (needs.lasts, needs.segments, needs.topics)] == [
        {"z"},
        {"v"},
        {"t"},
    ]
    assert needs.scores == {("c", timedelta(hours=1))}
    assert not read("1 < 2").needs


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.text("aZ0é", max_size=3)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
OPERAND = st.sampled_from(
    ["sub.a", "sub.b", "1", "-0.5", "'a'", "true", "null", "count('x')", "topic('t')", "['a', 1]",
     "last('x')", "days_since(sub.a)", "score('s', max_age='1d')", "sub.a * sub.b + 1"]
)  # fmt: skip
CONDITION = st.recursive(
    st.tuples(OPERAND, st.sampled_from([*"== != < <= > >= in".split(), "not in"]), OPERAND).map(
        " ".join
    ),
    lambda inner: st.tuples(inner, st.sampled_from([" and ", " or ", " and not "]), inner).map(
        lambda parts: f"({''.join(parts)})"
    ),
    max_leaves=4,
)


@given(CONDITION, JSON, JSON, st.booleans())
def test_whatever_passes_the_check_is_a_yes_a_no_or_stale_for_everybody(
    source: str, a: Any, b: Any, scored: bool
) -> None:
    try:
        root = read(source).root
    except ExpressionError:
        return
    scores = {("s", DAY): Decimal("0.5")} if scored else {}
    answer = holds(root, Known(NOW, {"a": a, "b": b}, scores=scores))
    assert answer in (True, False, STALE)
    assert answer is not STALE or not scored


@given(st.text("sub.a'\"()[]=<>!&|+-*/,0123 notrueandinulleventcountwithin", max_size=40))
def test_whatever_is_written_is_read_or_refused_with_a_place(source: str) -> None:
    try:
        read(source)
    except ExpressionError as error:
        assert 0 <= error.at <= len(source)
