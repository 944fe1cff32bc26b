"""Columns of a table as an estimator takes them: which are used, and what is done to each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

RARE = 20  # rows under which a category is one of the others


class SignedLog(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """sign(x) · log(1 + |x|): counts and amounts with long tails, made comparable. Stateless."""

    def fit(self, X: ArrayLike, y: Any = None) -> SignedLog:
        """Do nothing."""
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float64]:
        """X (n, m) as float64; NaN stays."""
        values = np.asarray(X, dtype=np.float64)
        return np.asarray(np.sign(values) * np.log1p(np.abs(values)))

    def __sklearn_is_fitted__(self) -> bool:
        return True


def is_number(column: pd.Series[Any]) -> bool:
    """Whether a column is read as numbers; truth values are."""
    return bool(pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))


def split_columns(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Names of the columns that vary: numbers, then categories."""
    numbers: list[str] = []
    categories: list[str] = []
    for name in frame.columns:
        column = frame[name]
        kinds = column.nunique(dropna=True) + (column.isna().any() and column.notna().any())
        if kinds > 1:
            (numbers if is_number(column) else categories).append(name)
    return numbers, categories


def scaled() -> Pipeline:
    """Numbers for models of sums: gaps filled and marked, tails pulled in."""
    return Pipeline(
        [
            ("fill", SimpleImputer(strategy="median", add_indicator=True)),
            ("log", SignedLog()),
            ("scale", StandardScaler()),
        ]
    )


def smooth(numbers: list[str], categories: list[str]) -> ColumnTransformer:
    """For models of sums: numbers `scaled`, one column a category."""
    return ColumnTransformer(
        [
            ("numbers", scaled(), numbers),
            (
                "categories",
                OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=RARE),
                categories,
            ),
        ],
        sparse_threshold=0,
    )


def coded(numbers: list[str], categories: list[str]) -> ColumnTransformer:
    """For trees: numbers with their gaps, categories by a code; an unknown one is a gap."""
    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan
    )
    return ColumnTransformer(
        [("numbers", "passthrough", numbers), ("categories", codes, categories)]
    )


def as_typed(frame: pd.DataFrame, categories: set[str]) -> pd.DataFrame:
    """Numbers as float64, everything else as text with None for a gap.

    Raises:
        ValueError: a column that was numbers holds something else; names it and an example.
    """
    made: dict[str, Any] = {}
    if not categories.intersection(frame.columns) and (frame.dtypes == np.float64).all():
        values = frame.to_numpy(dtype=np.float64)
        if not np.isinf(values).any():
            return frame
    for name in frame.columns:
        column = frame[name]
        if name in categories:
            text = column.astype(object)
            made[name] = text.where(column.isna(), text.map(str)).where(column.notna(), None)
            continue
        if not is_number(column):
            read = pd.to_numeric(column, errors="coerce")
            bad = column[read.isna() & column.notna()]
            if len(bad):
                raise ValueError(
                    f"column {name!r} holds {str(bad.iloc[0])[:40]!r}: numbers were expected, as in"
                    " the table that the model was fitted to"
                )
            column = read
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        made[name] = np.where(np.isinf(values), np.nan, values)
    return pd.DataFrame(made, index=frame.index, columns=frame.columns)
