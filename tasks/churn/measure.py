"""How good a score is, with intervals, and beside it what costs nothing.

Intervals are percentiles of a bootstrap over rows (Efron and Tibshirani, 1993); a difference of two
scores is bootstrapped in pairs, on the same rows. ECE: Naeini, Cooper and Hauskrecht, AAAI 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BINS: Final = 10
ROUNDS: Final = 400
ENOUGH: Final = 50_000  # rows; with more an interval is narrower than anybody asks
STEPS: Final = 20  # of the gain curve


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one score reached on one test.

    Attributes:
        rows, positives: of the test.
        majority: accuracy of always saying the commoner class.
        accuracy, auc: of the score.
        ece, brier, log_loss: None where the score is no probability.
    """

    rows: int
    positives: int
    majority: float
    accuracy: Estimate
    auc: Estimate
    ece: Estimate | None = None
    brier: Estimate | None = None
    log_loss: Estimate | None = None


def auc(y: ArrayLike, score: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve; ties count half.

    Args:
        y: (n,) true for the positive class; both classes are there.
        score: (n,) the higher, the likelier.
        weights: (n,) of the rows.
    """
    y, score = np.asarray(y, dtype=bool), np.asarray(score, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf) != 0)
    return _auc(np.where(y, w, 0)[order], np.where(y, 0, w)[order], starts)


def ece(y: ArrayLike, probability: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Expected calibration error over ten bins of equal width."""
    y, p = np.asarray(y, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    at = np.minimum((p * BINS).astype(int), BINS - 1)
    gaps = np.bincount(at, w * (y - p), minlength=BINS)
    return float(np.abs(gaps).sum() / w.sum())


def measure(
    y: ArrayLike,
    score: ArrayLike,
    *,
    threshold: float = 0.5,
    probability: bool = True,
    seed: int = 0,
) -> Measured:
    """Measure a score on a test.

    Args:
        y: (n,) true for the positive class; both classes are there.
        score: (n,) the higher, the likelier.
        threshold: over it the positive class is said.
        probability: whether it is one.
        seed: of the bootstrap.
    """
    y, score = np.asarray(y, dtype=bool), np.asarray(score, dtype=np.float64)
    right = ((score > threshold) == y).astype(np.float64)
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf) != 0)
    ordered = y[order]
    rows: dict[str, Any] = {"accuracy": right}
    if probability:
        p = np.clip(score, 1e-15, 1 - 1e-15)
        rows |= {"brier": (score - y) ** 2, "log_loss": -np.where(y, np.log(p), np.log(1 - p))}
    drawn: dict[str, list[float]] = {name: [] for name in (*rows, "auc", "ece")}
    for w in _weights(len(y), seed):
        for name, values in rows.items():
            drawn[name].append(float(np.dot(w, values) / w.sum()))
        sorted_w = w[order]
        drawn["auc"].append(
            _auc(np.where(ordered, sorted_w, 0), np.where(ordered, 0, sorted_w), starts)
        )
        if probability:
            drawn["ece"].append(ece(y, score, w))
    found = {name: _estimate(float(values.mean()), drawn[name]) for name, values in rows.items()}
    return Measured(
        rows=len(y),
        positives=int(y.sum()),
        majority=float(max(y.mean(), 1 - y.mean())),
        accuracy=found["accuracy"],
        auc=_estimate(auc(y, score), drawn["auc"]),
        ece=_estimate(ece(y, score), drawn["ece"]) if probability else None,
        brier=found.get("brier"),
        log_loss=found.get("log_loss"),
    )


def auc_difference(y: ArrayLike, score: ArrayLike, other: ArrayLike, seed: int = 0) -> Estimate:
    """AUC of `score` less that of `other`, bootstrapped in pairs on the same rows."""
    y = np.asarray(y, dtype=bool)
    prepared = []
    for each in (score, other):
        values = np.asarray(each, dtype=np.float64)
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf) != 0)
        prepared.append((order, starts, y[order]))
    drawn = []
    for w in _weights(len(y), seed):
        one, two = (
            _auc(np.where(s, w[order], 0), np.where(s, 0, w[order]), starts)
            for order, starts, s in prepared
        )
        drawn.append(one - two)
    return _estimate(auc(y, score) - auc(y, other), drawn)


def mean_difference(values: ArrayLike, other: ArrayLike, seed: int = 0) -> Estimate:
    """Mean of `values` less that of `other`, bootstrapped in pairs: of errors, say."""
    gap = np.asarray(values, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    drawn = [float(np.dot(w, gap) / w.sum()) for w in _weights(len(gap), seed)]
    return _estimate(float(gap.mean()), drawn)


def reliability(y: ArrayLike, probability: ArrayLike) -> list[dict[str, float]]:
    """The calibration plot's points: mean probability, observed share and rows of each tenth."""
    y, p = np.asarray(y, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    points = []
    for part in np.array_split(order, BINS):
        if len(part):
            points.append(
                {"said": float(p[part].mean()), "seen": float(y[part].mean()), "rows": len(part)}
            )
    return points


def gain(y: ArrayLike, score: ArrayLike) -> list[dict[str, float]]:
    """Cumulative gain: which share of the positives the top share of the ranking holds."""
    y = np.asarray(y, dtype=np.float64)
    found = np.cumsum(y[np.argsort(-np.asarray(score, dtype=np.float64), kind="stable")])
    points = [{"asked": 0.0, "found": 0.0}]
    for step in range(1, STEPS + 1):
        n = max(round(len(y) * step / STEPS), 1)
        points.append({"asked": n / len(y), "found": float(found[n - 1] / max(found[-1], 1))})
    return points


def plain(measured: Measured) -> dict[str, Any]:
    """As JSON has it: an estimate as [value, low, high]."""
    made: dict[str, Any] = {}
    for name in Measured.__slots__:
        value = getattr(measured, name)
        made[name] = [value.value, value.low, value.high] if isinstance(value, Estimate) else value
    return made


def shown(measured: Mapping[str, Any], name: str) -> str:
    """A figure of `plain` in words: value (low to high)."""
    value = measured.get(name)
    if value is None:
        return ""
    return str(Estimate(*value)) if isinstance(value, list) else f"{value:.3f}"


def _weights(n: int, seed: int) -> Any:
    chance = np.random.default_rng(seed)
    for _ in range(ROUNDS if n <= ENOUGH else ROUNDS // 4):
        yield np.bincount(chance.integers(0, n, n), minlength=n).astype(np.float64)


def _auc(positive: Floats, negative: Floats, starts: NDArray[Any]) -> float:
    """From weights sorted by score; `starts` is where each new value of it begins."""
    p, n = np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)
    total = p.sum() * n.sum()
    return float(np.dot(p, np.cumsum(n) - n / 2) / total) if total else 0.5


def _estimate(value: float, drawn: list[float]) -> Estimate:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high))
