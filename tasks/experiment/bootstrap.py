"""An interval of a difference of means of which nobody knows the distribution, such as revenue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_difference(
    a: Sequence[float],
    n_a: int,
    b: Sequence[float],
    n_b: int,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the bootstrap interval of mean b − mean a (percentiles; Efron and Tibshirani 1993).

    Args:
        a: values of those who have one; the other people count 0.
        n_a: people of arm a, those without a value among them.
        b: likewise.
        n_b: likewise.
        level: of the interval.
        draws: samples; each draws as many people as there are.
        seed: of the draws: the same values give the same interval.

    Raises:
        ValueError: an arm with more values than people, or without people.
    """
    if min(n_a - len(a), n_b - len(b), n_a - 1, n_b - 1) < 0:
        raise ValueError(
            "an arm has no people, or more values than people: expected at most as many"
        )
    random = np.random.default_rng(seed)
    # Arms in one order of their values: a bootstrap must not depend on the order of rows.
    means = [
        _means(np.sort(np.asarray(v, dtype=float)), n, draws, random)
        for v, n in ((a, n_a), (b, n_b))
    ]
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means[1] - means[0], [tail, 100 - tail])
    return float(low), float(high)


def _means(
    values: NDArray[Any], people: int, draws: int, random: np.random.Generator
) -> NDArray[Any]:
    """Means of samples with replacement: how many have a value first, then which; zeros cost nothing."""
    if not len(values):
        return np.zeros(draws)
    counts = random.binomial(people, len(values) / people, size=draws)
    return np.array([values[random.integers(0, len(values), n)].sum() for n in counts]) / people
