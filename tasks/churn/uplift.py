"""What a mail adds to the chance of a goal, of each subscriber: two models, one for each arm.

A T-learner (Künzel, Sekhon, Bickel and Yu, "Metalearners for estimating heterogeneous treatment
effects using machine learning", PNAS 116, 2019): P(goal | with) − P(goal | without), each learned on
its own arm. It is measured on rows that it was not fitted to (`out_of_fold`), by `tasks.churn.qini`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from tasks.churn.prepare import as_typed, coded, is_number, smooth, split_columns

KINDS: Final = ("logistic", "boosting")
FOLDS: Final = 5


class UpliftModel(BaseEstimator):  # type: ignore[misc]
    """The difference of two probabilities, over a table of numbers and categories.

    Args:
        kind: one of `KINDS`, of both models.
        random_state: seed.

    Attributes:
        feature_names_in_: columns of the fit; all of them are asked of `predict`.
        categories_: names of those that are read as categories.
        with_, without_: of each arm the columns that vary in it, and its pipeline.
    """

    def __init__(self, kind: str = "logistic", *, random_state: int = 0) -> None:
        self.kind = kind
        self.random_state = random_state

    def fit(self, X: pd.DataFrame, y: ArrayLike, treated: ArrayLike) -> UpliftModel:
        """Fit both models.

        Args:
            X: (n, m); numbers, truth values or categories, with gaps.
            y: (n,) true for who reached the goal.
            treated: (n,) true for who was in the arm that is asked about.

        Raises:
            ValueError: an unknown kind, an arm in which everybody or nobody reached the goal, or in
                which no column varies.
        """
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}: expected one of {', '.join(KINDS)}")
        y, treated = np.asarray(y, dtype=bool), np.asarray(treated, dtype=bool)
        self.feature_names_in_ = np.asarray([str(name) for name in X.columns], dtype=object)
        self.categories_ = [str(name) for name in X.columns if not is_number(X[name])]
        frame = as_typed(X, set(self.categories_))
        self.with_ = self._fitted(frame[treated], y[treated])
        self.without_ = self._fitted(frame[~treated], y[~treated])
        return self

    def predict(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """How much likelier the goal is with than without (n,), −1 … 1.

        Raises:
            ValueError: a column is missing, or holds text where numbers were.
        """
        check_is_fitted(self)
        missing = [name for name in self.feature_names_in_ if name not in X.columns]
        if missing:
            raise ValueError(f"columns {', '.join(missing)} missing: the model needs every one")
        frame = as_typed(X[list(self.feature_names_in_)], set(self.categories_))
        chances = [
            pipeline.predict_proba(frame[columns])[:, 1]
            for columns, pipeline in (self.with_, self.without_)
        ]
        return np.asarray(chances[0] - chances[1])

    def decision_function(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """The same in percentage points (n,), for whoever asks what moves it."""
        return 100 * self.predict(X)

    def _fitted(self, frame: pd.DataFrame, y: NDArray[np.bool_]) -> tuple[list[str], Pipeline]:
        if not 0 < y.sum() < len(y):
            raise ValueError(
                f"{y.sum()} of {len(y)} people of an arm reached the goal: some were expected, and"
                " not all"
            )
        numbers, categories = split_columns(frame)
        if not numbers and not categories:
            raise ValueError("no column varies in an arm: there is nothing to tell people apart by")
        model: Any
        if self.kind == "boosting":
            table = coded(numbers, categories)
            model = HistGradientBoostingClassifier(
                max_iter=60, max_leaf_nodes=7, learning_rate=0.08, l2_regularization=5.0,
                early_stopping=False, random_state=self.random_state,
            )  # fmt: skip
        else:
            table = smooth(numbers, categories)
            model = LogisticRegression(C=0.1, max_iter=2000)
        pipeline = Pipeline([("table", table), ("model", model)])
        columns = [*numbers, *categories]
        return columns, pipeline.fit(frame[columns], y)


def out_of_fold(
    model: UpliftModel, X: pd.DataFrame, y: ArrayLike, treated: ArrayLike, folds: int = FOLDS
) -> NDArray[np.float64]:
    """The uplift of each row (n,), by models of that kind which were not fitted to it.

    Folds have as many of each arm, and of those who reached the goal in it, as the whole.

    Raises:
        ValueError: as `UpliftModel.fit`.
    """
    y, treated = np.asarray(y, dtype=bool), np.asarray(treated, dtype=bool)
    found = np.zeros(len(y))
    parts = StratifiedKFold(folds, shuffle=True, random_state=model.random_state)
    for fit, held in parts.split(np.zeros(len(y)), 2 * treated + y):
        fitted = UpliftModel(model.kind, random_state=model.random_state)
        fitted.fit(X.iloc[fit], y[fit], treated[fit])
        found[held] = fitted.predict(X.iloc[held])
    return found
