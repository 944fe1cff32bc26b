"""An expression as SQL: a predicate over the row `s` of `subscriber`, the same as `evaluate` says.

Values are compared as jsonb, whose numbers are exact and whose kinds never meet; a condition is
true, false, or NULL where it cannot be decided without a score or segment that is missing or too
old. So NOT, AND and OR are SQL's own, and in WHERE what is stale is out.
"""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

from schedules.expression import Expression, Type
from schedules.expression.dates import PATTERN, instant_of
from schedules.expression.evaluate import LARGEST
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
    Score,
    Segment,
    Topic,
    walk,
)
from schedules.expression.types import COLUMNS, type_of

_STATUS = "CASE WHEN s.stopped_at IS NULL THEN 'subscribed' ELSE 'stopped' END"


def segment_sql(
    expression: Expression, *, now: dt.datetime | None = None
) -> tuple[str, dict[str, Any]]:
    """Return a predicate over `subscriber s` and its parameters, for `sqlalchemy.text`.

    Args:
        expression: a condition, without an event in scope.
        now: up to when events count and from when ages do; by default the statement's own time.
    """
    compiler = Compiler(now)
    return compiler.condition(expression.root), compiler.parameters


class Compiler:
    """Makes the SQL of one expression, each fact looked up by index for one subscriber.

    What facts are is said by the methods that begin with `fact_`; whoever gathers them otherwise
    says so there (`tasks.segment_query`).
    """

    def __init__(self, now: dt.datetime | None) -> None:
        self.parameters: dict[str, Any] = {}
        self._now = "statement_timestamp()" if now is None else self._bind(now, "timestamptz")

    def condition(self, node: Node) -> str:
        """SQL that is true, false, or NULL for stale."""
        match node:
            case Not(value=value):
                return f"(NOT {self.condition(value)})"
            case Logic(op=op, parts=parts):
                word = f" {op.upper()} "
                return f"({word.join(self.condition(part) for part in parts)})"
            case Compare():
                answer = f"coalesce({self._comparison(node)}, false)"
                stale = [
                    f"{self._value(each)} IS NULL"
                    for each in walk(node)
                    if isinstance(each, Score | Segment)
                ]
                if not stale:
                    return answer
                return f"(CASE WHEN {' OR '.join(stale)} THEN NULL ELSE {answer} END)"
            case Topic(key=key):
                return f"coalesce({self.fact_opted_in(key)}, false)"
            case InSegment(name=name):
                return self.fact_in_segment(name)
            case _:
                return f"coalesce({self._json(node)} = CAST('true' AS jsonb), false)"

    def _comparison(self, node: Compare) -> str:
        left, right, op = node.left, node.right, node.op
        if op in ("in", "not in"):
            return self._membership(node)
        kinds = {type_of(left), type_of(right)}
        if kinds == {Type.DATE} or (Type.DATE in kinds and op not in ("==", "!=")):
            sign = {"==": "=", "!=": "<>"}.get(op, op)
            return f"({self._date(left)} {sign} {self._date(right)})"
        if op not in ("==", "!="):
            return self._order(op, left, right, kinds)
        if Type.NULL in kinds:
            word = "IS NULL" if op == "==" else "IS NOT NULL"
            other = right if _is_null(left) else left
            return f"({self._value(other)} {word})"
        equal = self._equal(left, right)
        if op == "==":
            return equal
        return (
            f"({self._json(left)} IS NOT NULL AND {self._json(right)} IS NOT NULL AND NOT {equal})"
        )

    def _equal(self, left: Node, right: Node) -> str:
        a, b = self._json(left), self._json(right)
        scalar = f"jsonb_typeof({a}) NOT IN ('array', 'object')"
        return f"coalesce({a} = {b} AND {scalar}, false)"

    def _membership(self, node: Compare) -> str:
        left, list_ = self._json(node.left), self._json(node.right)
        inside = (
            f"(CASE WHEN jsonb_typeof({list_}) = 'array'"
            f" AND jsonb_typeof({left}) NOT IN ('array', 'object')"
            f" THEN {list_} @> {left} ELSE false END)"
        )
        if node.op == "in":
            return inside
        return f"({left} IS NOT NULL AND {list_} IS NOT NULL AND NOT {inside})"

    def _order(self, op: str, left: Node, right: Node, kinds: set[Type]) -> str:
        numbers = f"({self._number(left)} {op} {self._number(right)})"
        if Type.NUMBER in kinds:
            return numbers
        texts = f'({self._text(left)} COLLATE "C" {op} {self._text(right)} COLLATE "C")'
        return texts if Type.TEXT in kinds else f"coalesce({numbers}, {texts})"

    def _value(self, node: Node) -> str:
        """SQL that is NULL where the value is null or stale, of whichever type."""
        match node:
            case Score() | Count() | Minus() | Arithmetic() | DaysSince():
                return self._number(node)
            case Segment():
                return self._text(node)
            case Attribute() | Last() if type_of(node) is Type.DATE:
                return self._date(node)
            case _:
                return self._json(node)

    def _json(self, node: Node) -> str:
        match node:
            case Literal(value=value):
                return "CAST(NULL AS jsonb)" if value is None else self._bind(_json(value), "jsonb")
            case Items(values=values):
                return self._bind(f"[{','.join(_json(value) for value in values)}]", "jsonb")
            case Attribute(name=name) if name not in COLUMNS:
                return f"NULLIF(s.attributes -> {self._bind(name)}, CAST('null' AS jsonb))"
            case Attribute() | Segment():
                return f"to_jsonb({self._text(node)})"
            case Topic() | InSegment():
                return f"to_jsonb({self.condition(node)})"
            case _:
                return f"to_jsonb({self._number(node)})"

    def _text(self, node: Node) -> str:
        match node:
            case Attribute(name="status"):
                return f"({_STATUS})"
            case Attribute(name=name) if name in COLUMNS:
                return f"s.{name}"
            case Segment(name=name):
                return self.fact_label(name)
            case _:
                found = self._json(node)
                return f"(CASE WHEN jsonb_typeof({found}) = 'string' THEN {found} #>> '{{}}' END)"

    def _number(self, node: Node, *, reckoned: bool = False) -> str:
        match node:
            case Literal(value=int() | Decimal() as value) if not isinstance(value, bool):
                return self._bind(str(value), "numeric")
            case Count(event=event, within=within):
                return f"CAST({self.fact_count(event, within)} AS numeric)"
            case Score(name=name, max_age=max_age):
                # As text: a double cast straight to numeric loses its last digits.
                return f"CAST(CAST({self.fact_score(name, max_age)} AS text) AS numeric)"
            case DaysSince(since=since_node):
                days = f"extract(epoch FROM {self._now} - {self._date(since_node)}) / 86400"
                return f"floor({days})"
            case Minus(value=value_node):
                return f"(- {self._number(value_node, reckoned=True)})"
            case Arithmetic(op=op, left=left, right=right):
                a, b = self._number(left, reckoned=True), self._number(right, reckoned=True)
                return f"({a} {op} {b})"
            case _:
                found = self._json(node)
                number = f"(CASE WHEN jsonb_typeof({found}) = 'number' THEN CAST({found} AS numeric) END)"
                if not reckoned:
                    return number
                largest = self._bind(str(LARGEST), "numeric")
                return f"(CASE WHEN abs({number}) < {largest} THEN {number} END)"

    def _date(self, node: Node) -> str:
        match node:
            case Attribute(name="created_at"):
                return "s.created_at"
            case Last(event=event):
                return self.fact_last(event)
            case Literal(value=value):
                return self._bind(instant_of(value), "timestamptz")
            case _:
                # Nested, since AND promises no order: nothing but a date is ever cast to one.
                return (
                    "(SELECT CASE WHEN d.t ~ " + self._bind(PATTERN) + " THEN CASE"
                    " WHEN CAST(substr(d.t, 9, 2) AS int) <= extract(day FROM"
                    " CAST(substr(d.t, 1, 7) || '-01' AS date) + interval '1 month - 1 day')"
                    " THEN CAST(d.t || CASE WHEN length(d.t) = 10 THEN ' 00:00Z'"
                    " WHEN d.t ~ '(Z|[+-]..:..)$' THEN '' ELSE 'Z' END AS timestamptz) END END"
                    f" FROM (SELECT {self._text(node)} AS t) d)"
                )

    def fact_count(self, event: str, within: dt.timedelta | None) -> str:
        """How many events, a bigint."""
        since = "" if within is None else f" AND x.occurred_at > {self._ago(within)}"
        return f"(SELECT count(*) FROM event x WHERE x.subscriber_id = s.id{self._events(event)}{since})"

    def fact_last(self, event: str) -> str:
        """When the last one was; NULL: never."""
        return (
            "(SELECT max(x.occurred_at) FROM event x WHERE x.subscriber_id = s.id"
            f"{self._events(event)})"
        )

    def fact_score(self, name: str, max_age: dt.timedelta) -> str:
        """A finite double that is fresh; NULL: stale."""
        return f"(SELECT x.value FROM score x WHERE x.subscriber_id = s.id{self._scores(name, max_age)})"

    def fact_label(self, segment: str) -> str:
        """Text of the last promoted run; NULL: stale."""
        return (
            "(SELECT x.label FROM segment_member x WHERE x.subscriber_id = s.id"
            f" AND x.run = {self._promoted(segment)})"
        )

    def fact_opted_in(self, topic: str) -> str:
        """Yes or no; NULL: nobody asked."""
        return (
            "(SELECT x.opted_in FROM consent x WHERE x.subscriber_id = s.id"
            f" AND x.topic = {self._bind(topic)})"
        )

    def fact_in_segment(self, segment: str) -> str:
        """Yes or no, never NULL."""
        return (
            "EXISTS (SELECT 1 FROM segment_present x WHERE x.subscriber_id = s.id"
            f" AND x.segment = {self._bind(segment)})"
        )

    def _events(self, name: str) -> str:
        return f" AND x.name = {self._bind(name)} AND x.occurred_at <= {self._now}"

    def _scores(self, name: str, max_age: dt.timedelta) -> str:
        return (
            f" AND x.name = {self._bind(name)} AND x.scored_at > {self._ago(max_age)}"
            " AND abs(x.value) < CAST('Infinity' AS float8)"
        )

    def _promoted(self, segment: str) -> str:
        return (
            "(SELECT g.id FROM segment_run g WHERE g.promoted_at IS NOT NULL"
            f" AND g.segment = {self._bind(segment)} ORDER BY g.promoted_at DESC, g.id DESC LIMIT 1)"
        )

    def _ago(self, span: dt.timedelta) -> str:
        seconds = self._bind(span.total_seconds(), "float8")
        return f"{self._now} - make_interval(secs => {seconds})"

    def _bind(self, value: Any, kind: str = "text") -> str:
        name = f"segment_{len(self.parameters)}"
        self.parameters[name] = value
        return f"CAST(:{name} AS {kind})"


def _is_null(node: Node) -> bool:
    return isinstance(node, Literal) and node.value is None


def _json(value: Any) -> str:
    return str(value) if isinstance(value, Decimal) else json.dumps(value)
