"""What to believe of the arms, given a flat prior: exact Beta posteriors, no draws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, betaln

NODES: Final = 400
EDGE: Final = 1e-14


_gauss = cache(np.polynomial.legendre.leggauss)


def chance_of_best(arms: Sequence[tuple[int, int]]) -> list[float]:
    """Return for each arm the posterior chance that its rate is the highest.

    Args:
        arms: conversions and people of each.

    Returns:
        Chances that sum to 1: ∫ f_i(x) Π F_j(x) dx by Gauss–Legendre where f_i lives, with a
        Beta(1, 1) prior; 1e-9 from the closed form (Miller 2015, "Formulas for Bayesian A/B
        testing").

    Raises:
        ValueError: fewer people than conversions, or a number below 0.
    """
    shapes = [_shape(x, n) for x, n in arms]
    nodes, weights = _gauss(NODES)
    found = []
    for i, (a, b) in enumerate(shapes):
        low, high = betaincinv(a, b, EDGE), betaincinv(a, b, 1 - EDGE)
        x = low + (high - low) * (nodes + 1) / 2
        inside = _density(x, a, b) * np.prod(
            [betainc(*other, x) for j, other in enumerate(shapes) if j != i], axis=0
        )
        found.append(float(weights @ inside * (high - low) / 2))
    return found


def chance_of_more(x_a: int, n_a: int, x_b: int, n_b: int) -> float:
    """Return the posterior chance that arm b has the higher rate: P(B > A)."""
    return chance_of_best([(x_a, n_a), (x_b, n_b)])[1]


def credible(x: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the central posterior interval of a rate."""
    a, b = _shape(x, n)
    tail = (1 - level) / 2
    return float(betaincinv(a, b, tail)), float(betaincinv(a, b, 1 - tail))


def _shape(x: int, n: int) -> tuple[int, int]:
    if not 0 <= x <= n:
        raise ValueError(f"{x} conversions of {n} people: expected 0 … people")
    return 1 + x, 1 + n - x


def _density(x: NDArray[Any], a: int, b: int) -> NDArray[Any]:
    found: NDArray[Any] = np.exp((a - 1) * np.log(x) + (b - 1) * np.log1p(-x) - betaln(a, b))
    return found
