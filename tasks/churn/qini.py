"""Whether a ranking by uplift is worth anything: the Qini curve and its coefficient.

The curve says, of the top of a ranking, how many conversions more those with the mail had than those
without it had in proportion. The coefficient is the area between it and the straight line of a random
ranking, over that of a perfect one: 0 is random, 1 is perfect, below 0 is worse than random.

Radcliffe, "Using control groups to target on predicted lift" (Direct Marketing Analytics Journal 3,
2007). Ties are one point. Defined as `qini_auc_score` of scikit-uplift 0.5.1, whose values a test has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.churn.measure import Estimate
from tasks.experiment.intervals import newcombe

Floats = NDArray[np.float64]

ROUNDS: Final = 500
ENOUGH: Final = 50_000  # rows; with more an interval is narrower than anybody asks
STEPS: Final = 20  # of the curve that is shown
PARTS: Final = 5

CROSS_FITTED: Final = math.sqrt(2)
"""By how much wider the interval of scores out of fold is.

A bootstrap over rows takes their scores for given. Out of fold they are not: the folds are scored by
models that were fitted to one another, so what chance does in two of them counts twice, once each way.
Where there is nothing to find, the variance is twice that of scores that stand still (with K folds,
K (K − 1) covariances of σ² / (K − 1) beside K variances of σ²); where there is much, the models hang
little on single folds, and the interval is wider than it need be. See Bates, Hastie and Tibshirani,
"Cross-validation: what does it estimate and how well does it do it?" (JASA 119, 2024).
`tests.bench.uplift_found` measures it.
"""


def qini(
    y: ArrayLike,
    treated: ArrayLike,
    score: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    widen: float = 1.0,
    seed: int = 0,
) -> Estimate:
    """The Qini coefficient with its 95 % interval, by bootstrap over rows (percentiles).

    Args:
        y: (n,) true for who reached the goal.
        treated: (n,) true for who had the mail; some, and not all.
        score: (n,) the higher, the more the mail adds; of a model that was not fitted to the row.
        weights: (n,) 1 / the chance of the arm that each had, in any unit; None: all alike.
        widen: factor of both half-widths of the interval: `CROSS_FITTED` for scores out of fold.
        seed: of the bootstrap.
    """
    ranked = _Ranked(y, treated, score, weights)
    best = perfect(y, treated, weights)
    if not best > 0:
        return Estimate(0.0, -1.0, 1.0)
    n = len(ranked.order)
    chance = np.random.default_rng(seed)
    drawn = [
        ranked.area(np.bincount(chance.integers(0, n, n), minlength=n).astype(np.float64))
        for _ in range(ROUNDS if n <= ENOUGH else ROUNDS // 4)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5]) / best
    value = ranked.area(np.ones(n)) / best
    return Estimate(value, value - widen * float(value - low), value + widen * float(high - value))


def perfect(y: ArrayLike, treated: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The area of a ranking that knows everything, over that of a random one; people × conversions."""
    y, t = np.asarray(y, dtype=np.float64), np.asarray(treated, dtype=np.float64)
    return _Ranked(y, t, y * t - y * (1 - t), weights).area(np.ones(len(y)))


def curve(
    y: ArrayLike, treated: ArrayLike, score: ArrayLike, weights: ArrayLike | None = None
) -> list[dict[str, float]]:
    """Points of the curve: mailed, the share of the ranking from its top, and what that brings.

    ``brings`` is conversions more, for each thousand people of the whole ranking.
    """
    ranked = _Ranked(y, treated, score, weights)
    people, more = ranked.points(np.ones(len(ranked.order)))
    whole = float(np.sum(ranked.with_))
    shares = np.linspace(0, 1, STEPS + 1)
    at = np.interp(shares * people[-1], people, more)
    return [
        {"mailed": float(share), "brings": 1000 * float(value) / whole}
        for share, value in zip(shares, at, strict=True)
    ]


def by_part(y: ArrayLike, treated: ArrayLike, score: ArrayLike) -> list[dict[str, Any]]:
    """Fifths of the ranking, the highest first: what was said of each, and what was seen (Newcombe)."""
    y, t = np.asarray(y, dtype=bool), np.asarray(treated, dtype=bool)
    score = np.asarray(score, dtype=np.float64)
    return [
        {
            "part": number,
            "people": len(part),
            "said": float(score[part].mean()),
            "seen": [_gap(y[part], t[part]), *_interval(y[part], t[part])],
        }
        for number, part in enumerate(
            np.array_split(np.argsort(-score, kind="stable"), PARTS), start=1
        )
        if len(part)
    ]


class _Ranked:
    """Rows by falling score; `ends` is where each value of it is over."""

    def __init__(
        self, y: ArrayLike, treated: ArrayLike, score: ArrayLike, weights: ArrayLike | None
    ) -> None:
        score = np.asarray(score, dtype=np.float64)
        self.order = np.argsort(-score, kind="stable")
        self.ends = np.append(np.flatnonzero(np.diff(score[self.order])), len(score) - 1)
        t = np.asarray(treated, dtype=np.float64)[self.order]
        goal = np.asarray(y, dtype=np.float64)[self.order]
        w = np.ones(len(t)) if weights is None else np.asarray(weights, float)[self.order]
        self.with_, self.without = w * t, w * (1 - t)
        for arm in (self.with_, self.without):
            # In the unit of people, so that weights which are alike change nothing.
            arm *= np.count_nonzero(arm) / (arm.sum() or 1.0)
        self.goal_with, self.goal_without = self.with_ * goal, self.without * goal

    def points(self, times: Floats) -> tuple[Floats, Floats]:
        """People and conversions more, at each end; `times` (n,) is how often each row counts."""
        w = times[self.order]
        people, n, x, m, y = (
            np.append(0.0, np.cumsum(each)[self.ends])
            for each in _times(w, self.with_, self.goal_with, self.without, self.goal_without)
        )
        ratio = np.divide(n, m, out=np.zeros_like(n), where=m > 0)
        return people, x - y * ratio

    def area(self, times: Floats) -> float:
        people, more = self.points(times)
        return float(np.trapezoid(more, people) - people[-1] * more[-1] / 2)


def _times(w: Floats, *columns: Floats) -> Iterator[Floats]:
    yield w
    for column in columns:
        yield w * column


def _gap(y: NDArray[np.bool_], t: NDArray[np.bool_]) -> float | None:
    return float(y[t].mean() - y[~t].mean()) if 0 < t.sum() < len(t) else None


def _interval(y: NDArray[np.bool_], t: NDArray[np.bool_]) -> tuple[float, float]:
    return newcombe(int(y[~t].sum()), int((~t).sum()), int(y[t].sum()), int(t.sum()))
