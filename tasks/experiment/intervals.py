"""Intervals of rates and of their difference. No numpy."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(x: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a rate (Wilson 1927); (0, 1) where nobody was asked."""
    if not n:
        return 0.0, 1.0
    z = -NormalDist().inv_cdf((1 - level) / 2)
    center = (x + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(x * (n - x) / n + z * z / 4)
    return max(0.0, center - half), min(1.0, center + half)


def newcombe(x_a: int, n_a: int, x_b: int, n_b: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of rate b − rate a from two score intervals.

    Method 10 of Newcombe, "Interval estimation for the difference between independent proportions"
    (Statistics in Medicine 17, 1998); (-1, 1) where an arm is empty.
    """
    if not n_a or not n_b:
        return -1.0, 1.0
    a, b = x_a / n_a, x_b / n_b
    (low_a, high_a), (low_b, high_b) = wilson(x_a, n_a, level), wilson(x_b, n_b, level)
    below = math.hypot(b - low_b, high_a - a)
    above = math.hypot(high_b - b, a - low_a)
    return b - a - below, b - a + above
