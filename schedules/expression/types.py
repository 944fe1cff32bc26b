"""What kind of value each part of an expression is, and whether they fit together."""

from __future__ import annotations

from enum import Enum
from typing import Final

from schedules.expression.dates import instant_of
from schedules.expression.nodes import (
    Arithmetic,
    Attribute,
    Compare,
    Count,
    DaysSince,
    ExpressionError,
    InSegment,
    Items,
    Last,
    Literal,
    Logic,
    Minus,
    Node,
    Not,
    Property,
    Scalar,
    Score,
    Segment,
    Topic,
    walk,
)


class Type(Enum):
    """A kind of value, in words; ``ANY`` is known when it is looked at, and never a date."""

    TEXT = "text"
    NUMBER = "a number"
    BOOLEAN = "a yes or no"
    DATE = "a date"
    LIST = "a list"
    NULL = "null"
    ANY = "an attribute"


COLUMNS: Final = {
    "first_name": Type.TEXT, "locale": Type.TEXT, "zone": Type.TEXT, "external_id": Type.TEXT,
    "status": Type.TEXT, "created_at": Type.DATE,
}  # fmt: skip
"""What ``sub.<name>`` reads from the subscriber itself; every other name is an attribute."""

HIDDEN: Final = frozenset({"id", "address", "email", "attributes", "stopped_at", "updated_at"})
"""Names that look like columns and are not to be asked for."""

STATUSES: Final = ("subscribed", "stopped")

_ORDERED: Final = frozenset({Type.TEXT, Type.NUMBER, Type.DATE, Type.ANY})


def type_of(node: Node) -> Type:
    """Return the kind of an expression that `check` has passed."""
    match node:
        case Literal(value=value):
            return _of_scalar(value)
        case Items():
            return Type.LIST
        case Attribute(name=name):
            return COLUMNS.get(name, Type.ANY)
        case Property():
            return Type.ANY
        case Count() | DaysSince() | Score() | Minus() | Arithmetic():
            return Type.NUMBER
        case Last():
            return Type.DATE
        case Segment():
            return Type.TEXT
        case Topic() | InSegment() | Compare() | Not() | Logic():
            return Type.BOOLEAN


def check(root: Node, *, event: bool) -> Type:
    """Return the kind of an expression, once every part of it has been looked at.

    Args:
        root: as parsed.
        event: an event is in scope.

    Raises:
        ExpressionError: at the first part that does not fit.
    """
    for node in walk(root):
        match node:
            case Attribute(name=name, at=at) if name in HIDDEN:
                raise ExpressionError(
                    f"sub.{name} cannot be asked for: expected an attribute or one of"
                    f" {', '.join(COLUMNS)}; use one of those",
                    at,
                )
            case Property(name=name, at=at) if not event:
                raise ExpressionError(
                    f"event.{name} stands where there is no event: expected sub.<attribute>,"
                    " count() or last(); ask for one of those",
                    at,
                )
            case DaysSince(since=since):
                _date(since)
            case Minus(value=value):
                _number(value)
            case Arithmetic(op=op, left=left, right=right):
                _number(left, op)
                _number(right, op)
            case Not(value=value):
                require_condition(value, type_of(value))
            case Logic(parts=parts):
                for part in parts:
                    require_condition(part, type_of(part))
            case Compare():
                _comparison(node)
    return _used(root)


def require_condition(node: Node, kind: Type) -> None:
    """Refuse what is no yes or no.

    Raises:
        ExpressionError: it is something else.
    """
    if kind not in (Type.BOOLEAN, Type.ANY):
        raise ExpressionError(
            f"{kind.value} stands where a yes or no is asked for: expected a comparison, such as"
            " sub.country == 'DE'; compare it with something",
            node.at,
        )


def _comparison(node: Compare) -> None:
    for side in (node.left, node.right):
        if isinstance(side, Compare | Not | Logic):
            raise ExpressionError(
                f"what stands beside {node.op!r} is a yes or no already: expected a value; take"
                " the comparison away",
                side.at,
            )
    left, right = _used(node.left), type_of(node.right)
    if node.op in ("in", "not in"):
        _membership(node, left, right)
        return
    right = _used(node.right)
    ordered = node.op not in ("==", "!=")
    for kind, side in ((left, node.left), (right, node.right)):
        if ordered and kind not in _ORDERED:
            raise ExpressionError(
                f"{kind.value} has no order: expected == or != with it; use one of them", side.at
            )
    stale = next((n for n in (node.left, node.right) if isinstance(n, Score | Segment)), None)
    if stale is not None and Type.NULL in (left, right):
        raise ExpressionError(
            "a score or segment that is missing is never null: what happens then is said by"
            " 'on_stale'; take the comparison away",
            node.at,
        )
    _same(left, right, node.right.at)
    _status(node.left, node.right)
    _status(node.right, node.left)


def _membership(node: Compare, left: Type, right: Type) -> None:
    if right not in (Type.LIST, Type.ANY):
        raise ExpressionError(
            f"{right.value} stands after {node.op!r}: expected a list such as ['DE', 'AT'], or an"
            " attribute that holds one; write one",
            node.right.at,
        )
    if left is Type.NULL:
        raise ExpressionError("null is in no list: expected == null; compare so", node.left.at)
    if isinstance(node.right, Items):
        for value in node.right.values:
            _same(left, _of_scalar(value), node.right.at)
            _status(node.left, Literal(value, node.right.at))
    elif left is Type.DATE:
        raise ExpressionError(
            "a date is in no list: expected days_since(); compare its number", node.left.at
        )


def _same(left: Type, right: Type, at: int) -> None:
    if left is right or Type.NULL in (left, right):
        return
    if Type.DATE in (left, right):
        raise ExpressionError(
            f"{left.value} is compared with {right.value}: expected two dates from last() or"
            " sub.created_at, or days_since(…) and a number; compare those",
            at,
        )
    if Type.ANY not in (left, right):
        raise ExpressionError(
            f"{left.value} is compared with {right.value}, so the answer is always no: expected"
            " the same kind on both sides; correct one",
            at,
        )


def _status(side: Node, other: Node) -> None:
    if isinstance(side, Attribute) and side.name == "status" and isinstance(other, Literal):
        if isinstance(other.value, str) and other.value not in STATUSES:
            raise ExpressionError(
                f"sub.status is never {other.value[:40]!r}: expected 'subscribed' or 'stopped';"
                " write one of them",
                other.at,
            )


def _number(node: Node, op: str = "-") -> None:
    kind = _used(node)
    if kind not in (Type.NUMBER, Type.ANY):
        raise ExpressionError(
            f"{kind.value} stands beside {op!r}: expected a number or an attribute; correct it",
            node.at,
        )


def _date(node: Node) -> None:
    kind = _used(node)
    if isinstance(node, Literal) and instant_of(node.value) is not None:
        return
    if kind not in (Type.DATE, Type.ANY):
        raise ExpressionError(
            f"days_since() is given {kind.value} that is no date: expected a date such as"
            " '2026-01-31', last('purchase') or an attribute; give it one",
            node.at,
        )


def _used(node: Node) -> Type:
    if isinstance(node, Items):
        raise ExpressionError(
            "a list stands alone: expected it after 'in' or 'not in'; put it there", node.at
        )
    return type_of(node)


def _of_scalar(value: Scalar) -> Type:
    if value is None:
        return Type.NULL
    if isinstance(value, bool):
        return Type.BOOLEAN
    return Type.TEXT if isinstance(value, str) else Type.NUMBER
