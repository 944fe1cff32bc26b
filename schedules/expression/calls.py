"""The calls that an expression may make, each with its argument and options; there are no others."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from schedules.durations import parse_duration
from schedules.expression.nodes import (
    Count,
    DaysSince,
    ExpressionError,
    InSegment,
    Last,
    Literal,
    Node,
    Score,
    Segment,
    Topic,
)

Options = Mapping[str, Literal]


def call(name: str, argument: Node | None, options: Options, at: int) -> Node:
    """Return the node of a call.

    Raises:
        ExpressionError: no such call, or not with these arguments.
    """
    if name not in CALLS:
        near = difflib.get_close_matches(name, CALLS, n=1)
        move = f"did you mean {near[0]}()?" if near else "use one of them"
        raise ExpressionError(
            f"{name}() is no call of the language: expected {', '.join(f'{n}()' for n in CALLS)};"
            f" {move}",
            at,
        )
    make, known, example = CALLS[name]
    if argument is None:
        raise ExpressionError(f"{name}() is empty: expected {example}; write it so", at)
    for option, value in options.items():
        if option not in known:
            raise ExpressionError(
                f"{name}() has no option {option!r}: expected {example}; write it so", value.at
            )
    return make(argument, options, at)


def _count(argument: Node, options: Options, at: int) -> Node:
    return Count(_text("count", argument), _span(options, "within"), at)


def _last(argument: Node, options: Options, at: int) -> Node:
    return Last(_text("last", argument), at)


def _days_since(argument: Node, options: Options, at: int) -> Node:
    return DaysSince(argument, at)


def _score(argument: Node, options: Options, at: int) -> Node:
    name = _text("score", argument)
    max_age = _span(options, "max_age")
    if max_age is None:
        raise ExpressionError(
            f"score('{name}') does not say how old it may be: expected"
            f" score('{name}', max_age='24h'); add max_age",
            at,
        )
    return Score(name, max_age, at)


def _segment(argument: Node, options: Options, at: int) -> Node:
    name = _text("segment", argument)
    promoted = options.get("promoted")
    if promoted is None or promoted.value is not True:
        raise ExpressionError(
            f"segment('{name}') does not say which run counts: expected"
            f" segment('{name}', promoted=true); write it so",
            at if promoted is None else promoted.at,
        )
    return Segment(name, at)


def _topic(argument: Node, options: Options, at: int) -> Node:
    return Topic(_text("topic", argument), at)


def _in_segment(argument: Node, options: Options, at: int) -> Node:
    return InSegment(_text("in_segment", argument), at)


def _text(name: str, argument: Node) -> str:
    if not isinstance(argument, Literal) or not isinstance(argument.value, str):
        raise ExpressionError(
            f"{name}() is given something else than a name: expected {CALLS[name][2]}; write it so",
            argument.at,
        )
    if not argument.value or len(argument.value) > 200:
        raise ExpressionError(
            f"the name given to {name}() is empty or longer than 200 characters; correct it",
            argument.at,
        )
    return argument.value


def _span(options: Options, option: str) -> timedelta | None:
    given = options.get(option)
    if given is None:
        return None
    if not isinstance(given.value, str):
        raise ExpressionError(
            f"{option!r} is no text: expected a duration such as {option}='90d'; write it so",
            given.at,
        )
    try:
        return parse_duration(given.value)
    except ValueError as error:
        raise ExpressionError(f"{option!r}: {error}", given.at) from error


CALLS: Final[
    dict[str, tuple[Callable[[Node, Options, int], Node], tuple[str, ...], str]]
] = {
    "count": (_count, ("within",), "count('purchase', within='90d')"),
    "last": (_last, (), "last('purchase')"),
    "days_since": (_days_since, (), "days_since(last('purchase')) or days_since(sub.trial_ends)"),
    "score": (_score, ("max_age",), "score('churn', max_age='24h')"),
    "segment": (_segment, ("promoted",), "segment('value', promoted=true)"),
    "topic": (_topic, (), "topic('product-news')"),
    "in_segment": (_in_segment, (), "in_segment('lapsed')"),
}  # fmt: skip
"""Name → how its node is made, its options, and how it is written."""
