"""Value per person of two arms, which may be looked at whenever one likes. No numpy.

The normal mixture of `tasks.experiment.sequential` over a difference of means, its variance estimated:
an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform
central limit theory and asymptotic confidence sequences", Annals of Statistics 52, 2024). So it holds
from some hundreds of conversions an arm on, and only where single values cannot carry the mean: they
are winsorized first, at one bound for both arms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

CONVERSIONS: Final = 100
"""Of each arm below which nothing is told: a mean of fewer skewed values is no normal one."""
TOP: Final = 0.99
"""Quantile of the values of both arms together, above which a value counts as that one."""


@dataclass(frozen=True, slots=True)
class Worth:
    """Of one arm: people, how many of them have a value, and the sums of values and of their squares.

    Whoever has none counts 0. ``total`` and ``squares`` are of winsorized values.
    """

    people: int
    valued: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        """Value per person; 0 where there is nobody."""
        return self.total / self.people if self.people else 0.0

    @property
    def variance(self) -> float:
        """Of one person's value."""
        if not self.people:
            return 0.0
        return max(self.squares / self.people - self.mean**2, 0.0)

    def __add__(self, other: Worth) -> Worth:
        return Worth(
            self.people + other.people,
            self.valued + other.valued,
            self.total + other.total,
            self.squares + other.squares,
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """Mean b − mean a; ``low`` … ``high`` holds at all looks together, ``p`` is of this moment."""

    difference: float
    low: float
    high: float
    p: float


def gap(a: Worth, b: Worth, alpha: float = 0.05, effect: float = 0.1) -> Gap | None:
    """Compare two arms; None where the values carry no comparison.

    Args:
        a: the control.
        b: the arm.
        alpha: of the interval, over all looks.
        effect: relative difference that the mixture is made for.
    """
    if min(a.valued, b.valued) < CONVERSIONS:
        return None
    spread = a.variance / a.people + b.variance / b.people
    middle = abs(a.total + b.total) / (a.people + b.people)
    if not spread or not middle:
        return None
    found = b.mean - a.mean
    ratio = (effect * middle) ** 2 / spread
    half = math.sqrt(spread * (1 + ratio) / ratio * (math.log1p(ratio) - 2 * math.log(alpha)))
    log_odds = found**2 / spread * ratio / (2 * (1 + ratio)) - math.log1p(ratio) / 2
    return Gap(found, found - half, found + half, min(1.0, math.exp(-log_odds)))
