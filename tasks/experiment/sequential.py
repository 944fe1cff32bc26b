"""A test that may be looked at whenever one likes: the mixture sequential probability ratio test.

Johari, Koomen, Pekelis and Walsh, "Always Valid Inference: Continuous Monitoring of A/B Tests"
(Operations Research 70:3, 2022): the likelihood ratio of the observed difference, averaged over
effects from a normal distribution, exceeds 1/α at any time with a chance of at most α where there is
no effect. Here the effects are *relative* to the rate, so that what has been learned grows with the
conversions: also while those who were assigned are still on their way to the goal.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

EFFECT: Final = 0.1
"""Standard deviation of the relative effects that are mixed over: the test is quickest near it."""


def information(x_a: ArrayLike, n_a: ArrayLike, x_b: ArrayLike, n_b: ArrayLike) -> NDArray[Any]:
    """Return 1 / variance of the relative difference, by the rate of both arms together; 0 if unknown."""
    xa, na, xb, nb = (np.asarray(each, dtype=float) for each in (x_a, n_a, x_b, n_b))
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = (xa + xb) / (na + nb)
        found = rate / (1 - rate) / (1 / na + 1 / nb)
    return np.where(np.isfinite(found), found, 0.0)


def always_valid_p(
    x_a: ArrayLike, n_a: ArrayLike, x_b: ArrayLike, n_b: ArrayLike, effect: float = EFFECT
) -> NDArray[Any]:
    """Return the p-value of the two-sided mSPRT for two proportions at this moment.

    Args:
        x_a: conversions of arm a, of ``n_a`` people; any shape, as long as all go together.
        n_a: people of arm a.
        x_b: likewise of arm b.
        n_b: likewise.
        effect: standard deviation of the mixture over relative effects.

    Returns:
        0 … 1, of the common shape; 1 where nothing is known. The smallest that was ever seen is a
        p-value too: the chance that it falls below α is at most α over all looks together.
    """
    xa, na, xb, nb = (np.asarray(each, dtype=float) for each in (x_a, n_a, x_b, n_b))
    known = information(xa, na, xb, nb)
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = np.nan_to_num((xb / nb - xa / na) / ((xa + xb) / (na + nb)), posinf=0, neginf=0)
    ratio = effect**2 * known
    log_odds = lift**2 * known * ratio / (2 * (1 + ratio)) - np.log1p(ratio) / 2
    found: NDArray[Any] = np.minimum(1.0, np.exp(-log_odds))
    return found


def always_valid_interval(
    x_a: int, n_a: int, x_b: int, n_b: int, alpha: float = 0.05, effect: float = EFFECT
) -> tuple[float, float]:
    """Return an interval of rate b − rate a that holds at all looks together with chance 1 − α.

    The confidence sequence that belongs to `always_valid_p`; (-1, 1) where nothing is known.
    """
    known = float(information(x_a, n_a, x_b, n_b))
    if not known:
        return -1.0, 1.0
    rate = (x_a + x_b) / (n_a + n_b)
    difference, ratio = x_b / n_b - x_a / n_a, effect**2 * known
    half = rate * float(
        np.sqrt((1 + ratio) / ratio * (np.log1p(ratio) - 2 * np.log(alpha)) / known)
    )
    return max(-1.0, difference - half), min(1.0, difference + half)


def boundary(known: ArrayLike, alpha: float = 0.05, effect: float = EFFECT) -> NDArray[Any]:
    """Return the |z| at which the test stops, where the relative difference has that `information`."""
    ratio = effect**2 * np.asarray(known, dtype=float)
    found: NDArray[Any] = np.sqrt((1 + ratio) / ratio * (np.log1p(ratio) - 2 * np.log(alpha)))
    return found
