"""What an expression is worth for one subscriber: pure, exact, and the same as in SQL.

- Numbers are exact decimals. Kinds are never converted: 30 is not '30'.
- A missing attribute is null. A comparison with null is no, whichever it is, also ``!=`` and
  ``not in``; only ``== null`` and ``!= null`` ask for it.
- An attribute of another kind than it is compared with is not equal, and neither less nor more.
- A score or segment that is missing or too old is `STALE`, and so is everything that cannot be
  decided without it: ``false and stale`` is no, ``true and stale`` is stale.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Context, Decimal
from enum import Enum
from typing import Any, Final

from schedules.expression.dates import instant_of
from schedules.expression.nodes import (
    Arithmetic,
    Attribute,
    Compare,
    Count,
    DaysSince,
    InSegment,
    Items,
    Last,
    Literal,
    Logic,
    Minus,
    Node,
    Not,
    Property,
    Score,
    Segment,
    Topic,
)

LARGEST: Final = 10**30
"""An attribute of this size or more is null where it is reckoned with."""


class Stale(Enum):
    """The kind of `STALE`."""

    STALE = "stale"


STALE: Final = Stale.STALE


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one subscriber at one moment; what was not asked for may be left out.

    Attributes:
        now: aware.
        subscriber: columns and attributes by name; `numbers` keeps what JSON holds exact.
        counts: (event, within) → how many; none is 0.
        lasts: event → when; missing: never.
        scores: (name, max_age) → value, only where it is fresh.
        segments: name → label, only of the last promoted run.
        topics: key → opted in; missing: nobody asked.
        event: properties, where an event is in scope.
        memberships: keys of the named segments that they are in, of those that were asked for.
    """

    now: datetime
    subscriber: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[tuple[str, timedelta | None], int] = field(default_factory=dict)
    lasts: Mapping[str, datetime] = field(default_factory=dict)
    scores: Mapping[tuple[str, timedelta], Decimal] = field(default_factory=dict)
    segments: Mapping[str, str] = field(default_factory=dict)
    topics: Mapping[str, bool] = field(default_factory=dict)
    event: Mapping[str, Any] | None = None
    memberships: frozenset[str] = frozenset()


def evaluate(node: Node, known: Known) -> Any:
    """Return the value: None, bool, int, Decimal, str, datetime, what an attribute holds, or STALE."""
    return _RULES[type(node)](node, known)


def holds(node: Node, known: Known) -> bool | Stale:
    """Return the answer of a condition; an attribute says yes only where it is true itself."""
    value = evaluate(node, known)
    return STALE if value is STALE else value is True


def _of_attribute(node: Any, known: Known) -> Any:
    return _exact(known.subscriber.get(node.name))


def _of_property(node: Any, known: Known) -> Any:
    return _exact((known.event or {}).get(node.name))


def _exact(value: Any) -> Any:
    if isinstance(value, float):
        value = Decimal(repr(value))
        return value if value.is_finite() else None
    return value


def _days_since(node: Any, known: Known) -> Any:
    since = instant_of(evaluate(node.since, known))
    return None if since is None else (known.now - since) // timedelta(days=1)


def _operand(node: Node, known: Known) -> Any:
    """A number, None for what is none, or STALE."""
    value = evaluate(node, known)
    if value is STALE:
        return STALE
    if _kind(value) != "number":
        return None
    if isinstance(node, Attribute | Property) and not -LARGEST < value < LARGEST:
        return None
    return value


# Without traps: what overflows is infinite, and compares so.
_EXACT: Final = Context(prec=200, traps=[])
_ARITHMETIC: Final[dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]]] = {
    "+": (operator.add, _EXACT.add),
    "-": (operator.sub, _EXACT.subtract),
    "*": (operator.mul, _EXACT.multiply),
}


def _minus(node: Any, known: Known) -> Any:
    value = _operand(node.value, known)
    if value is None or value is STALE:
        return value
    # The sign alone: a plain minus would round to the digits of the thread's own context.
    return value.copy_negate() if isinstance(value, Decimal) else -value


def _arithmetic(node: Any, known: Known) -> Any:
    left, right = _operand(node.left, known), _operand(node.right, known)
    if left is STALE or right is STALE:
        return STALE
    if left is None or right is None:
        return None
    whole, exact = _ARITHMETIC[node.op]
    both = isinstance(left, int) and isinstance(right, int)
    return whole(left, right) if both else exact(left, right)


_ORDER: Final = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def _compare(node: Any, known: Known) -> bool | Stale:
    left = evaluate(node.left, known)
    right = evaluate(node.right, known)
    if left is STALE or right is STALE:
        return Stale.STALE
    op = node.op
    if op in ("in", "not in"):
        if left is None or right is None:
            return False
        inside = isinstance(right, list) and any(_equal(left, _exact(each)) for each in right)
        return bool(inside is (op == "in"))
    if op in _ORDER:
        kind = _kind(left)
        if kind != _kind(right) or kind not in ("number", "text", "date"):
            return False
        return bool(_ORDER[op](left, right))
    if _is_null(node.left) or _is_null(node.right):
        both: bool = left is None and right is None
        return both is (op == "==")
    if left is None or right is None:
        return False
    same: bool = _equal(left, right)
    return same is (op == "==")


def _equal(left: Any, right: Any) -> bool:
    kind = _kind(left)
    return kind == _kind(right) and kind != "other" and bool(left == right)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | Decimal):
        return "number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, datetime):
        return "date"
    return "null" if value is None else "other"


def _is_null(node: Node) -> bool:
    return isinstance(node, Literal) and node.value is None


def _not(node: Any, known: Known) -> bool | Stale:
    value = holds(node.value, known)
    return STALE if value is STALE else not value


def _logic(node: Any, known: Known) -> bool | Stale:
    settles = node.op == "or"
    stale = False
    for part in node.parts:
        value = holds(part, known)
        if value is settles:
            return bool(settles)
        stale = stale or value is STALE
    return STALE if stale else not settles


_RULES: Final[dict[type, Callable[[Any, Known], Any]]] = {
    Literal: lambda node, known: node.value,
    Items: lambda node, known: list(node.values),
    Attribute: _of_attribute,
    Property: _of_property,
    Count: lambda node, known: known.counts.get((node.event, node.within), 0),
    Last: lambda node, known: known.lasts.get(node.event),
    DaysSince: _days_since,
    Score: lambda node, known: known.scores.get((node.name, node.max_age), STALE),
    Segment: lambda node, known: known.segments.get(node.name, STALE),
    Topic: lambda node, known: known.topics.get(node.key, False),
    InSegment: lambda node, known: node.name in known.memberships,
    Minus: _minus,
    Arithmetic: _arithmetic,
    Compare: _compare,
    Not: _not,
    Logic: _logic,
}
