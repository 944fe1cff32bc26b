"""Whether the subscribers of today are like those that a model was fitted to: PSI, with a bound.

The population stability index of two samples of one population is about χ²(bins − 1) · (1/n + 1/m),
so what is too much depends on how many there are: the folklore's .1 and .25 miss a shift of .2
standard deviations, and cry over a hundred rows. The bound is the 95th percentile of that, shared
out over the features (Bonferroni).

Source: Yurdakul and Naranjo, "Statistical Properties of the Population Stability Index", Journal of
Risk Model Validation 14 (2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.churn.artifact import answer
from tasks.churn.prepare import is_number

BINS: Final = 10
LEVELS: Final = 20  # categories told apart; the rest is one


@dataclass(frozen=True, slots=True)
class Drift:
    """One feature: its index, the bound for as many rows, and whether it is over it."""

    feature: str
    psi: float
    bound: float

    @property
    def drifted(self) -> bool:
        """Whether chance alone would hardly show so much."""
        return self.psi > self.bound


def reference(frame: pd.DataFrame) -> dict[str, Any]:
    """What a later sample is held against: rows, and for each feature its bins and their counts.

    Args:
        frame: (n, m) as a model takes it.
    """
    made: dict[str, Any] = {}
    for name in map(str, frame.columns):
        column = frame[name]
        if is_number(column):
            values = column.to_numpy(dtype=np.float64, na_value=np.nan)
            known = values[np.isfinite(values)]
            cuts = np.linspace(0, 1, BINS + 1)[1:-1]
            edges = np.unique(np.quantile(known, cuts)).tolist() if len(known) else []
            made[name] = {"edges": edges}
        else:
            levels = column.value_counts().index[:LEVELS]
            made[name] = {"levels": [str(level) for level in levels]}
        made[name]["counts"] = _counts(made[name], column).tolist()
    return {"rows": len(frame), "features": made}


def score_reference(model: Any, frame: pd.DataFrame) -> dict[str, Any]:
    """The same for what a model says of `frame`: its scores as one feature."""
    return reference(pd.DataFrame({"score": answer(model, frame)}))


def drifts(known: Mapping[str, Any], frame: pd.DataFrame) -> list[Drift]:
    """The features of today against `reference`, the worst first.

    Args:
        known: as `reference` made it.
        frame: today's rows, with the same columns.
    """
    features = known["features"]
    return sorted(
        (_drift(name, spec, known["rows"], frame[name], len(features)) for name, spec in features.items()),
        key=lambda each: -each.psi / each.bound,
    )  # fmt: skip


def _drift(
    name: str, spec: Mapping[str, Any], rows: int, column: pd.Series[Any], tests: int
) -> Drift:
    from scipy.stats import chi2

    before = np.asarray(spec["counts"], dtype=np.float64)
    now = _counts(spec, column).astype(np.float64)
    there = (before + now) > 0
    before, now = before[there] + 0.5, now[there] + 0.5  # an empty bin is rare, not impossible
    p, q = before / before.sum(), now / now.sum()
    psi = float(((p - q) * np.log(p / q)).sum())
    freedom = max(int(there.sum()) - 1, 1)
    bound = float(chi2.ppf(1 - 0.05 / tests, freedom)) * (
        1 / max(rows, 1) + 1 / max(len(column), 1)
    )
    return Drift(name, psi, bound)


def _counts(spec: Mapping[str, Any], column: pd.Series[Any]) -> NDArray[np.int64]:
    """Rows in each bin; the last one is what is not known, or no level that was."""
    if "edges" in spec:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        at = np.searchsorted(np.asarray(spec["edges"], dtype=np.float64), values, side="left")
        at = np.where(np.isfinite(values), at, len(spec["edges"]) + 1)
        return np.bincount(at.astype(int), minlength=len(spec["edges"]) + 2)
    codes = {level: at for at, level in enumerate(spec["levels"])}
    other = len(codes)
    text = column.astype(object)
    at = [
        other + 1 if missing else codes.get(str(value), other)
        for value, missing in zip(text, text.isna(), strict=True)
    ]
    return np.bincount(np.asarray(at, dtype=int), minlength=other + 2)
