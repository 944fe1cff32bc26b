"""The estimator of churn: a probability, calibrated, with scikit-learn's manners.

`ChurnModel` takes any table. Three kinds: `logistic`, `boosting` (histogram gradient boosting) and
`mlp` (a small neural network). All are calibrated by Platt's sigmoid on rows that the model was not
fitted to: on those handed over as `calibrate_on`, else out of fold.

Sources: Platt, "Probabilistic Outputs for Support Vector Machines" (1999); Niculescu-Mizil and
Caruana, "Predicting Good Probabilities with Supervised Learning", ICML 2005.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from tasks.churn.prepare import as_typed, coded, is_number, scaled, smooth, split_columns

KINDS: Final = ("logistic", "boosting", "mlp")
FEWEST = 5  # of each class, for a calibration to say anything


class ChurnModel(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A calibrated classifier of two classes over a table of numbers and categories.

    Args:
        kind: one of `KINDS`.
        folds: for the calibration out of fold, where no rows are handed over for it.
        random_state: seed.

    Attributes:
        classes_: the two, sorted; the second is the positive one.
        n_features_in_, feature_names_in_: as scikit-learn has them.
        categories_: names of the columns that are read as categories.
        pipeline_: what was fitted.
        sigmoid_: slope and intercept of the calibration, over the log odds; (1, 0) is none.
        loss_: log loss on the rows of the calibration, which the model was not fitted to; NaN
            without one. By it kinds are chosen, so that the test stays unseen.
    """

    def __init__(self, kind: str = "boosting", *, folds: int = 5, random_state: int = 0) -> None:
        self.kind = kind
        self.folds = folds
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike | pd.DataFrame,
        y: ArrayLike,
        calibrate_on: tuple[pd.DataFrame, ArrayLike] | None = None,
    ) -> ChurnModel:
        """Fit it.

        Args:
            X: (n, m); a frame's columns may be numbers, truth values or categories, with gaps.
            y: (n,) of two classes.
            calibrate_on: rows and classes of a later time, which the calibration is learned from.

        Raises:
            ValueError: not two classes, no column that varies, or an unknown kind.
        """
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}: expected one of {', '.join(KINDS)}")
        frame, y = self._first_look(X, y)
        self.classes_, coded_y = np.unique(y, return_inverse=True)
        if len(self.classes_) != 2:
            # Its second half is what scikit-learn's own checks ask for, word for word.
            raise ValueError(
                f"y has {len(self.classes_)} class{'es' * (len(self.classes_) > 1)}, two were"
                " expected. Only binary classification is supported. The type of the target is"
                f" {type_of_target(y)}."
            )
        self.categories_ = [str(n) for n in frame.columns if not is_number(frame[n])]
        frame = as_typed(frame, set(self.categories_))
        numbers, categories = split_columns(frame)
        if not numbers and not categories:
            raise ValueError("no column varies: there is nothing to tell the two classes apart by")
        self._used = (numbers, categories)
        if calibrate_on is not None:
            other = self._table(calibrate_on[0])
            held = np.asarray(np.asarray(calibrate_on[1]) == self.classes_[1], dtype=int)
            self.pipeline_ = self._fitted(frame, coded_y)
            raw = self._raw(other)
        else:
            held, raw = coded_y, self._out_of_fold(frame, coded_y)
            self.pipeline_ = self._fitted(frame, coded_y)
        self.sigmoid_ = _sigmoid(raw, held)
        slope, intercept = self.sigmoid_
        self.loss_ = float(np.mean(np.logaddexp(0, (1 - 2 * held) * (slope * raw + intercept))))
        return self

    def predict_proba(self, X: ArrayLike | pd.DataFrame) -> NDArray[np.float64]:
        """Probabilities (n, 2) in the order of `classes_`.

        Raises:
            ValueError: a column is missing, or holds text where numbers were.
        """
        check_is_fitted(self)
        slope, intercept = self.sigmoid_
        positive = expit(slope * self._raw(self._table(X)) + intercept)
        return np.column_stack([1 - positive, positive])

    def decision_function(self, X: ArrayLike | pd.DataFrame) -> NDArray[np.float64]:
        """Calibrated log odds of the positive class (n,); over 0 is its prediction."""
        check_is_fitted(self)
        slope, intercept = self.sigmoid_
        return np.asarray(slope * self._raw(self._table(X)) + intercept)

    def predict(self, X: ArrayLike | pd.DataFrame) -> NDArray[Any]:
        """The likelier class of each row (n,)."""
        positive = (self.decision_function(X) > 0).astype(int)
        return np.asarray(self.classes_[positive])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = True
        return tags

    def _first_look(self, X: Any, y: Any) -> tuple[pd.DataFrame, NDArray[Any]]:
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, skip_check_array=True)
            y = column_or_1d(y, warn=True)
            if len(X) != len(y):
                raise ValueError(
                    f"X has {len(X)} rows and y {len(y)}: one class a row was expected"
                )
            named = hasattr(self, "feature_names_in_")
            frame = X if named else X.set_axis(_columns(X.shape[1]), axis=1)
        else:
            X, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan")
            frame = pd.DataFrame(X, columns=_columns(X.shape[1]))
        check_classification_targets(y)
        if len(frame) < 2:
            raise ValueError(f"n_samples={len(frame)}: at least two rows were expected")
        return frame, np.asarray(y)

    def _table(self, X: Any) -> pd.DataFrame:
        """Rows to predict, as the fit saw its own."""
        if isinstance(X, pd.DataFrame) and not hasattr(self, "feature_names_in_"):
            validate_data(self, X, skip_check_array=True, reset=False)
            X = X.set_axis(_columns(X.shape[1]), axis=1)
        if not isinstance(X, pd.DataFrame):
            X = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False)
            X = pd.DataFrame(X, columns=_columns(X.shape[1]))
        names = getattr(self, "feature_names_in_", _columns(self.n_features_in_))
        missing = [str(name) for name in names if name not in X.columns]
        if missing:
            raise ValueError(
                f"{'columns' if len(missing) > 1 else 'column'} {', '.join(map(repr, missing))}"
                f" missing: the model was fitted to {len(names)} columns and needs every one"
            )
        numbers, categories = self._used
        return as_typed(X[[*numbers, *categories]], set(self.categories_))

    def _fitted(self, frame: pd.DataFrame, y: NDArray[Any]) -> Pipeline:
        numbers, categories = self._used
        table: Any
        if self.kind == "boosting":
            table = coded(numbers, categories) if categories else "passthrough"
        else:
            table = smooth(numbers, categories) if categories else scaled()
        pipeline = Pipeline([("table", table), ("model", self._estimator(len(y)))])
        with warnings.catch_warnings():
            # A network that stops early is one; how good it is, the test says.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return pipeline.fit(self._rows(frame), y)

    def _estimator(self, rows: int) -> Any:
        if self.kind == "logistic":
            return LogisticRegression(C=1.0, max_iter=2000)
        if self.kind == "mlp":
            # Its own holding out needs rows of both classes.
            return MLPClassifier(
                (32, 16), alpha=1e-3, early_stopping=rows >= 1000, max_iter=200,
                random_state=self.random_state,
            )  # fmt: skip
        return HistGradientBoostingClassifier(
            max_iter=120, max_leaf_nodes=15, learning_rate=0.08, l2_regularization=1.0,
            early_stopping=False, random_state=self.random_state,
        )  # fmt: skip

    def _raw(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Log odds as the fitted model says them, before the calibration."""
        return _log_odds(self.pipeline_, self._rows(frame))

    def _rows(self, frame: pd.DataFrame) -> Any:
        """What the pipeline takes: without categories a plain array, which costs a third."""
        numbers, categories = self._used
        return frame if categories else frame[numbers].to_numpy(dtype=np.float64)

    def _out_of_fold(self, frame: pd.DataFrame, y: NDArray[Any]) -> NDArray[np.float64]:
        """Log odds of each row, from models that were not fitted to it; NaN: too few for that."""
        if min(np.bincount(y)) < FEWEST:
            return np.full(len(y), np.nan)
        raw = np.zeros(len(y))
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=self.random_state)
        for fit, held in folds.split(frame, y):
            fitted = self._fitted(frame.iloc[fit], y[fit])
            raw[held] = _log_odds(fitted, self._rows(frame.iloc[held]))
        return raw


def _columns(n: int) -> list[str]:
    return [f"x{at}" for at in range(n)]


def _log_odds(pipeline: Pipeline, rows: Any) -> NDArray[np.float64]:
    positive = pipeline.predict_proba(rows)[:, 1]
    return np.asarray(logit(np.clip(positive, 1e-9, 1 - 1e-9)))


def _sigmoid(raw: NDArray[np.float64], y: NDArray[Any]) -> tuple[float, float]:
    """Slope and intercept that make `raw` log odds of `y`; none where a class is too rare."""
    if min(np.bincount(y, minlength=2)) < FEWEST or not np.ptp(raw) > 0:
        return (1.0, 0.0)
    fitted = LogisticRegression(C=1e4, max_iter=1000).fit(raw[:, None], y)
    slope = float(fitted.coef_[0, 0])
    # A slope of none or less would turn the ranking round, which no calibration may.
    return (slope, float(fitted.intercept_[0])) if slope > 0 else (1.0, 0.0)
