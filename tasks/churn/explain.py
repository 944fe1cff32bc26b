"""Why a subscriber has the score they have: what each feature moves, in plain words.

A feature's contribution is the change of the log odds when it is set to what is typical and all
others stay (occlusion: Zeiler and Fergus, 2014; the same for every kind of model). Contributions do
not add up where features hang together, and none is a cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.churn.prepare import is_number


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one feature does to one score; `moves`: log odds, above 0 it raises the score."""

    feature: str
    value: Any
    typical: Any
    moves: float


def typical(frame: pd.DataFrame) -> dict[str, Any]:
    """The median of each number, the commonest of each category; None where none is known."""
    made: dict[str, Any] = {}
    for name in map(str, frame.columns):
        column = frame[name].dropna()
        if not len(column):
            made[name] = None
        elif is_number(column):
            made[name] = float(column.astype(float).median())
        else:
            made[name] = str(column.mode().iloc[0])
    return made


def contributions(model: Any, row: pd.DataFrame, usual: Mapping[str, Any]) -> list[Contribution]:
    """What moves a score, the strongest first.

    Args:
        model: fitted, with a `decision_function`: log odds, of an uplift percentage points.
        row: (1, m) features of one subscriber.
        usual: as `typical` made it.
    """
    names = [str(name) for name in row.columns if str(name) in usual]
    rows = pd.concat([row] * (len(names) + 1), ignore_index=True).astype(
        {name: object for name in names if not is_number(row[name])}
    )
    for at, name in enumerate(names, start=1):
        value = usual[name]
        if is_number(row[name]):
            rows[name] = rows[name].astype(float)
            value = np.nan if value is None else value
        rows.loc[at, name] = value
    odds = model.decision_function(rows)
    found = [
        Contribution(name, _plain(row[name].iloc[0]), usual[name], float(odds[0] - odds[at]))
        for at, name in enumerate(names, start=1)
    ]
    return sorted((c for c in found if c.moves), key=lambda each: -abs(each.moves))


def in_words(found: Contribution, meaning: str) -> str:
    """One line: "days since the last purchase: 210, typical 96: raises it (+0.8)"."""
    word = "raises" if found.moves > 0 else "lowers"
    return (
        f"{meaning}: {_shown(found.value)}, typical {_shown(found.typical)}:"
        f" {word} it ({found.moves:+.2f})"
    )


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    return float(value) if isinstance(value, int | float | np.number) else str(value)
