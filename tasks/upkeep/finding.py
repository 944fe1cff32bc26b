"""What an audit asks, and what it finds: rows that break a promise, by their ids."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Invariant:
    """What holds (`promise`), and what an operator reads when it does not (`sentence`).

    `sql` selects (message_id, enrollment_id, subscriber_id, detail) of the rows that break it.
    """

    name: str
    promise: str
    sentence: str
    sql: str


@dataclass(frozen=True, slots=True)
class Violation:
    """A row that breaks an invariant; an id is None where it has no meaning. No address in it."""

    message_id: int | None
    enrollment_id: int | None
    subscriber_id: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class InvariantResult:
    """One invariant, checked.

    Attributes:
        name: I1 … I12, I14, W1 … W3.
        promise: what holds if `count` is 0.
        sentence: what is broken if it is not, and the next move.
        count: how many rows break it.
        rows: the first of them, by message id.
    """

    name: str
    promise: str
    sentence: str
    count: int
    rows: list[Violation]
