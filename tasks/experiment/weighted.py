"""Arms whose weights moved: each person counts by 1 / the chance of the arm that they got. No numpy.

Every epoch has its shares, and who came in it was drawn by them; so counts an epoch are enough.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

EFFECTIVE: Final = 100.0
"""Effective sample size below which no rate of an arm is told: few people would stand for many."""

DRAWS: Final = 2000
LEAST: Final = 10
"""Percent that every arm keeps, so that each stays measurable."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """Of one arm.

    Attributes:
        rate: (Σ converted / chance) / (Σ people / chance), over epochs (Hájek 1971).
        effective: how many people of equal weight know as much (Kish 1965).
    """

    rate: float
    effective: float


Spans = Sequence[tuple[float, int, int]]
"""Of an arm, an epoch each: its share in it, people, and how many of them converted."""


def weighted(spans: Spans) -> Weighted | None:
    """Return the rate of an arm as if its share had stood still; None where nobody came into it."""
    people = sum(n / p for p, n, _ in spans if n)
    if not people:
        return None
    squares = sum(n / p**2 for p, n, _ in spans if n)
    return Weighted(sum(x / p for p, n, x in spans if n) / people, people**2 / squares)


def difference(
    ours: Spans, theirs: Spans, people: int, effect: float, alpha: float
) -> tuple[float, float, float, float]:
    """Compare two arms over epochs in which both were open.

    Whoever converts adds 1 / chance to their arm's side. Where the arm makes no difference the sum
    is a martingale, whatever the shares hang on and however late conversions come, so a normal
    mixture over its variance may be looked at always (Howard et al., "Time-uniform, nonparametric,
    nonasymptotic confidence sequences", 2021; asymptotically: Waudby-Smith et al. 2024).

    Args:
        ours: of the control.
        theirs: of the arm, the same epochs.
        people: who came in those epochs, into whichever arm.
        effect: relative lift that the mixture is made for.
        alpha: of the interval.

    Returns:
        Difference of the rates (Horvitz–Thompson), its interval, and the p-value at this moment.
    """
    score = sum(x / p for p, _, x in theirs if x) - sum(x / p for p, _, x in ours if x)
    spread = sum(x / p**2 for spans in (ours, theirs) for p, _, x in spans if x)
    if not spread or not people:
        return 0.0, -1.0, 1.0, 1.0
    ratio = (effect / 4) ** 2
    log_odds = ratio * score**2 / (2 * (1 + ratio * spread)) - math.log1p(ratio * spread) / 2
    around = spread - score**2 / people
    half = math.sqrt(
        (1 + ratio * around) / ratio * (math.log1p(ratio * around) - 2 * math.log(alpha))
    )
    found = score / people
    low, high = max(-1.0, found - half / people), min(1.0, found + half / people)
    return found, low, high, min(1.0, math.exp(-log_odds))


def thompson(arms: Mapping[str, Spans], seed: str, draws: int = DRAWS) -> dict[str, int] | None:
    """Return weights in percent: how likely each arm is the best, and `LEAST` at least.

    Beta posteriors of the weighted rates at their effective sample sizes: so all arms are of the same
    people, also while the last to come have had no time to convert. The chances come by draws from
    ``seed``; None before every arm has `EFFECTIVE` people.
    """
    known = {name: weighted(spans) for name, spans in arms.items()}
    shapes = []
    for each in known.values():
        if each is None or each.effective < EFFECTIVE:
            return None
        shapes.append((1 + each.effective * each.rate, 1 + each.effective * (1 - each.rate)))
    draw = random.Random(seed)
    best = [0] * len(shapes)
    for _ in range(draws):
        values = [draw.betavariate(a, b) for a, b in shapes]
        best[values.index(max(values))] += 1
    least = min(LEAST, 100 // len(best))
    return {name: max(least, round(100 * n / draws)) for name, n in zip(known, best, strict=True)}
