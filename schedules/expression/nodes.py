"""What an expression is made of, and what must be known to evaluate it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Literal as OneOf
from typing import TypeAlias

Scalar: TypeAlias = bool | int | Decimal | str | None


class ExpressionError(ValueError):
    """What is wrong with an expression; ``at`` is the place in its text, from 0."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as it is written."""

    value: Scalar
    at: int


@dataclass(frozen=True, slots=True)
class Items:
    """A list of values, to the right of ``in``; null is none of them."""

    values: tuple[Scalar, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Attribute:
    """``sub.name``: a column of the subscriber, else what their attributes hold."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Property:
    """``event.name``."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Count:
    """How many events of that name, up to now; ``within`` None: ever."""

    event: str
    within: timedelta | None
    at: int


@dataclass(frozen=True, slots=True)
class Last:
    """When the last event of that name occurred, up to now."""

    event: str
    at: int


@dataclass(frozen=True, slots=True)
class DaysSince:
    """Whole days of 24 hours since a date, rounded down."""

    since: Node
    at: int


@dataclass(frozen=True, slots=True)
class Score:
    """A score that is not older than ``max_age``, else stale."""

    name: str
    max_age: timedelta
    at: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The subscriber's label in the last promoted run, else stale."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Topic:
    """Whether the subscriber has opted in to a topic."""

    key: str
    at: int


@dataclass(frozen=True, slots=True)
class InSegment:
    """Whether the subscriber is in a named segment, as it was last evaluated."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Minus:
    """The negative of a number."""

    value: Node
    at: int


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Two numbers make one."""

    op: OneOf["+", "-", "*"]
    left: Node
    right: Node
    at: int


@dataclass(frozen=True, slots=True)
class Compare:
    """A yes or no about two values."""

    op: OneOf["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
    left: Node
    right: Node
    at: int


@dataclass(frozen=True, slots=True)
class Not:
    """No instead of yes."""

    value: Node
    at: int


@dataclass(frozen=True, slots=True)
class Logic:
    """All (``and``) or any (``or``) of several."""

    op: OneOf["and", "or"]
    parts: tuple[Node, ...]
    at: int


Node: TypeAlias = (
    Literal | Items | Attribute | Property | Count | Last | DaysSince | Score | Segment | Topic
    | InSegment | Minus | Arithmetic | Compare | Not | Logic
)  # fmt: skip


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and everything in it."""
    yield node
    match node:
        case DaysSince(since=inner) | Minus(value=inner) | Not(value=inner):
            yield from walk(inner)
        case Arithmetic(left=left, right=right) | Compare(left=left, right=right):
            yield from walk(left)
            yield from walk(right)
        case Logic(parts=parts):
            for part in parts:
                yield from walk(part)


@dataclass(frozen=True, slots=True)
class Needs:
    """What is asked for, so that it can be fetched for many subscribers at once.

    Attributes:
        subscriber: columns or attributes are.
        counts: (event, within).
        lasts: events.
        scores: (name, max_age).
        segments: names.
        topics: keys.
        memberships: keys of named segments.
        stale_at: where the first score or segment is asked for, if any is.
    """

    subscriber: bool = False
    counts: frozenset[tuple[str, timedelta | None]] = frozenset()
    lasts: frozenset[str] = frozenset()
    scores: frozenset[tuple[str, timedelta]] = frozenset()
    segments: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    stale_at: int | None = field(default=None, compare=False)
    memberships: frozenset[str] = frozenset()

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            self.subscriber or other.subscriber,
            self.counts | other.counts,
            self.lasts | other.lasts,
            self.scores | other.scores,
            self.segments | other.segments,
            self.topics | other.topics,
            self.stale_at if self.stale_at is not None else other.stale_at,
            self.memberships | other.memberships,
        )

    def __bool__(self) -> bool:
        return self.subscriber or bool(
            self.counts
            or self.lasts
            or self.scores
            or self.segments
            or self.topics
            or self.memberships
        )

    @classmethod
    def of(cls, root: Node) -> Needs:
        """Collect what an expression asks for."""
        nodes = list(walk(root))
        stale = [node.at for node in nodes if isinstance(node, Score | Segment)]
        return cls(
            any(isinstance(node, Attribute) for node in nodes),
            frozenset((n.event, n.within) for n in nodes if isinstance(n, Count)),
            frozenset(n.event for n in nodes if isinstance(n, Last)),
            frozenset((n.name, n.max_age) for n in nodes if isinstance(n, Score)),
            frozenset(n.name for n in nodes if isinstance(n, Segment)),
            frozenset(n.key for n in nodes if isinstance(n, Topic)),
            min(stale, default=None),
            frozenset(n.name for n in nodes if isinstance(n, InSegment)),
        )
