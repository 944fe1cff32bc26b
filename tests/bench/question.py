"""What the questions of `make bench` have in common: how much is measured, and what is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

QUICK = 3000
LARGEST = 5_000_000

MICROS = "µs of processor a mail"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        mails: a window.
        rounds: of everything that takes turns.
        connections: SMTP connections of the send worker, and of smtp-source.
        quick: with windows and books of a size that takes minutes together.
        wanted: goals that are asked for.
        say: told what goes on.
    """

    mails: int
    rounds: int
    connections: int
    quick: bool
    wanted: frozenset[str]
    say: Callable[[str], None]

    def wants(self, *goals: str) -> bool:
        """Whether one of these is asked for."""
        return bool(self.wanted & {*goals})


@dataclass(frozen=True, slots=True)
class Row:
    """Something that was measured: a value a round."""

    what: str
    unit: str
    values: list[float]

    @property
    def spread(self) -> str:
        """Median, and the range in brackets where there is one."""
        places = 0 if median(self.values) >= 100 else 2
        low, middle, high = min(self.values), median(self.values), max(self.values)
        if len(self.values) == 1:
            return f"{middle:,.{places}f}"
        return f"{middle:,.{places}f} ({low:,.{places}f}–{high:,.{places}f})"


@dataclass(slots=True)
class Answers:
    """What was found.

    Attributes:
        goals: goal → its figure, a value a round.
        rows: what they were made of.
        missing: goal → why there is no figure, in a sentence.
    """

    goals: dict[str, list[float]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def row(self, what: str, unit: str, values: list[float]) -> None:
        """Add one that was measured."""
        self.rows.append(Row(what, unit, values))


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]
