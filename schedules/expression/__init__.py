"""The small language of conditions and values in a definition: read, typed, evaluated; no Python.

Written by hand, not on Python's own parser: a stored condition means the same under every Python
that reads it back, and a mistake is named at its column in our own words.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schedules.expression.nodes import ExpressionError, Needs, Node
from schedules.expression.parse import parse
from schedules.expression.types import Type, check, require_condition

__all__ = ["Expression", "ExpressionError", "Needs", "Type", "read"]


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression; equal where the text is equal.

    Attributes:
        source: as it was written, and as it is stored.
        root: the tree.
        needs: what must be known to evaluate it.
    """

    source: str
    root: Node = field(compare=False, repr=False)
    needs: Needs = field(compare=False, repr=False)


def read(
    source: str, *, condition: bool = True, event: bool = False, scores: bool = True
) -> Expression:
    """Parse and check an expression.

    Args:
        source: its text.
        condition: it must be a yes or no; otherwise any value.
        event: an event is in scope, so that ``event.<property>`` can be asked for.
        scores: ``score()`` and ``segment()`` may be asked for; false where nothing says what
            happens when one is too old (R14).

    Raises:
        ExpressionError: with the place in ``source``.
    """
    root = parse(source)
    kind = check(root, event=event)
    if condition:
        require_condition(root, kind)
    needs = Needs.of(root)
    if not scores and needs.stale_at is not None:
        raise ExpressionError(
            "score() and segment() can be too old, and nothing here says what happens then:"
            " expected them in a branch with 'on_stale'; ask there",
            needs.stale_at,
        )
    return Expression(source, root, needs)
