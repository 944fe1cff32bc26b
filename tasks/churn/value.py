"""Customer lifetime value as an estimator: what a customer will spend within a horizon."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from tasks.churn.lifetime import BetaGeometric, GammaGamma, fit_purchases, fit_worth

COLUMNS: Final = ("x", "t_x", "T", "mean")
WEEK: Final = 7.0


class LifetimeModel(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """BG/NBD for how often, Gamma-Gamma for how much.

    Its table has the columns x (days with a repeat purchase), t_x and T (days from the first
    purchase to the last one and to now), mean (worth of a repeat purchase day).

    Args:
        horizon_days: how far it looks.

    Attributes:
        purchases_: r, α, a, b of the BG/NBD, in weeks.
        worth_: p, q, v of the Gamma-Gamma.
    """

    def __init__(self, horizon_days: float = 365.0) -> None:
        self.horizon_days = horizon_days

    def fit(self, X: pd.DataFrame, y: Any = None) -> LifetimeModel:
        """Fit both; `y` is not read.

        Raises:
            ValueError: nobody came back, or too few did and paid.
        """
        _require(X)
        found = fit_purchases(X["x"], X["t_x"] / WEEK, X["T"] / WEEK)
        worth = fit_worth(X["x"], X["mean"])
        self.purchases_ = (found.r, found.alpha, found.a, found.b, found.log_likelihood)
        self.worth_ = (worth.p, worth.q, worth.v, worth.log_likelihood)
        self.n_features_in_ = len(COLUMNS)
        return self

    def predict(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """Expected spending within the horizon, in the currency of the shop (n,).

        Raises:
            ValueError: a column is missing.
        """
        mean = GammaGamma(*self.worth_).expected(X["x"], X["mean"])
        return np.asarray(self.expected_purchases(X) * mean)

    def expected_purchases(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """Expected days with a purchase within the horizon (n,); a churn score ranks by its inverse."""
        check_is_fitted(self)
        _require(X)
        # Customers with the same history have the same future, and most share theirs.
        rows, back = np.unique(
            X[["x", "t_x", "T"]].to_numpy(dtype=np.float64), axis=0, return_inverse=True
        )
        model = BetaGeometric(*self.purchases_)
        found = model.expected(
            self.horizon_days / WEEK, rows[:, 0], rows[:, 1] / WEEK, rows[:, 2] / WEEK
        )
        return np.asarray(found[back.ravel()])


def _require(X: pd.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in X.columns]
    if missing:
        raise ValueError(f"column {', '.join(map(repr, missing))} missing: expected {COLUMNS}")
