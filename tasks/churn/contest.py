"""Which model is the best of three, how good it is on a test nobody saw, and whether it may be used.

The kind is chosen by log loss on the rows of the calibration; the test decides nothing but the
verdict. Baselines stand beside every figure: the majority class, a one-line rule, and what the
caller adds (BG/NBD's expected purchases).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier

from tasks.churn import measure
from tasks.churn.engine import KINDS, ChurnModel
from tasks.churn.prepare import as_typed, coded, is_number, split_columns
from tasks.errors import Permanent

ROWS: Final = 100
EACH: Final = 20
MARGIN: Final = 0.005  # of AUC: by so much a challenger may lie under the champion, by chance
LOOKED_AT: Final = 2000  # rows for the importance of features


class TooLittle(Permanent):
    """There is nothing here that a model could be learned from, or tested on."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one time: a table (n, m), and which of them are positive (n,)."""

    table: pd.DataFrame
    positive: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a model has to be worth: a ranking of the test (n,), and from where it says yes."""

    name: str
    score: NDArray[np.float64]
    threshold: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The model that was chosen, and its report as JSON has it; see `compete`."""

    model: ChurnModel
    report: dict[str, Any] = field(repr=False)


def require_enough(part: Part, what: str, of: str) -> None:
    """Refuse a part from which nothing can be learned.

    Args:
        part: to look at.
        what: its use, "to train on".
        of: what is positive, "churned".

    Raises:
        TooLittle: too few rows, or one class, or too few of one.
    """
    rows, positives = len(part.positive), int(part.positive.sum())
    if rows < ROWS:
        raise TooLittle(
            f"{rows} rows {what}: at least {ROWS} were expected; bring in more history, or ask for"
            " a shorter horizon"
        )
    if positives in (0, rows):
        every = "every row" if positives else "no row"
        raise TooLittle(
            f"{every} {what} is {of}: a label with two classes was expected; look at the label"
            " column, or at the horizon"
        )
    if min(positives, rows - positives) < EACH:
        raise TooLittle(
            f"{positives} of {rows} rows {what} are {of}: at least {EACH} of each class were"
            " expected; bring in more rows, or another horizon"
        )


def compete(
    fit: Part,
    calibrate: Part | None,
    test: Part,
    baselines: Sequence[Baseline],
    *,
    of: str = "positive",
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> Outcome:
    """Fit each kind, choose one, and measure all of them on the test.

    Args:
        fit: rows to learn from.
        calibrate: rows of a later time for the calibration; None: out of fold.
        test: rows that none of them saw.
        baselines: the first one is the rule that the model is held against; none: the best single
            column.
        of: what is positive, for messages.
        kinds: of models.
        seed: of fits and intervals.

    Returns:
        The model, and a report: rows, kinds (each measured, with its held-out loss), baselines,
        chosen, rule, over_rule (AUC difference and interval), reliability, gain, importance.

    Raises:
        TooLittle: see `require_enough`.
    """
    require_enough(fit, "to train on", of)
    if calibrate is not None:
        require_enough(calibrate, "to calibrate on", of)
    require_enough(test, "to test on", of)
    if not any(split_columns(fit.table)):
        raise TooLittle("no column to train on varies: there is nothing to tell the rows apart by")
    held = None if calibrate is None else (calibrate.table, calibrate.positive)
    models = {
        kind: ChurnModel(kind, random_state=seed).fit(fit.table, fit.positive, calibrate_on=held)
        for kind in kinds
    }
    scores = {kind: model.predict_proba(test.table)[:, 1] for kind, model in models.items()}
    chosen = min(models, key=lambda kind: models[kind].loss_)
    rules = list(baselines) or [best_column(fit, test)]
    measured = {
        kind: measure.plain(measure.measure(test.positive, score, seed=seed))
        | {"held_out_loss": models[kind].loss_}
        for kind, score in scores.items()
    }
    beside = {
        rule.name: measure.plain(
            measure.measure(
                test.positive, rule.score, threshold=rule.threshold, probability=False, seed=seed
            )
        )
        for rule in rules
    }
    over = measure.auc_difference(test.positive, scores[chosen], rules[0].score, seed)
    report = {
        "rows": {
            "fit": len(fit.positive),
            "calibrate": 0 if calibrate is None else len(calibrate.positive),
            "test": len(test.positive),
        },
        "chosen": chosen,
        "kinds": measured,
        "baselines": beside,
        "majority": measured[chosen]["majority"],
        "rule": rules[0].name,
        "over_rule": [over.value, over.low, over.high],
        "reliability": measure.reliability(test.positive, scores[chosen]),
        "gain": measure.gain(test.positive, scores[chosen]),
        "importance": importance(models[chosen], test, seed),
    }
    return Outcome(models[chosen], report)


def best_column(fit: Part, test: Part) -> Baseline:
    """The one-line rule of any table: the single column, and the cut in it, that tells the most."""
    categories = {str(name) for name in fit.table.columns if not is_number(fit.table[name])}
    seen, asked = as_typed(fit.table, categories), as_typed(test.table, categories)
    numbers, texts = split_columns(seen)
    table = coded(numbers, texts).fit(seen)
    stump = DecisionTreeClassifier(max_depth=1, random_state=0)
    stump.fit(table.transform(seen), fit.positive)
    used = [*numbers, *texts][max(int(stump.tree_.feature[0]), 0)]
    score = stump.predict_proba(table.transform(asked))[:, 1]
    return Baseline(f"best single column ({used})", score, 0.5)


def importance(model: ChurnModel, test: Part, seed: int = 0) -> list[dict[str, Any]]:
    """How much AUC is lost when a column is shuffled, the most first (Breiman, 2001)."""
    chance = np.random.default_rng(seed)
    rows = chance.permutation(len(test.positive))[:LOOKED_AT]
    table, y = test.table.iloc[rows].reset_index(drop=True), test.positive[rows]
    whole = measure.auc(y, model.decision_function(table)) if 0 < y.sum() < len(y) else 0.5
    found = []
    for name in table.columns:
        shuffled = table.copy()
        shuffled[name] = table[name].iloc[chance.permutation(len(table))].to_numpy()
        lost = whole - measure.auc(y, model.decision_function(shuffled))
        found.append({"feature": str(name), "auc_lost": round(float(lost), 5)})
    return sorted(found, key=lambda each: -float(each["auc_lost"]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a challenger may become the champion by itself, and why."""

    promote: bool
    why: str


def judge(over_rule: Sequence[float], rule: str, over_champion: Sequence[float] | None) -> Verdict:
    """The rule by which a challenger is promoted without an operator's word.

    Args:
        over_rule: AUC difference to the one-line rule, low and high end of its interval.
        rule: its name.
        over_champion: the same to the champion, on the same rows; None: there is none.
    """
    if over_rule[1] <= 0:
        return Verdict(
            False,
            f"its AUC is {over_rule[0]:+.3f} ({over_rule[1]:+.3f} to {over_rule[2]:+.3f}) over"
            f" {rule}: the interval does not lie above 0",
        )
    if over_champion is None:
        return Verdict(True, f"it beats {rule}, and there is no champion")
    if over_champion[1] < -MARGIN:
        return Verdict(
            False,
            f"its AUC is {over_champion[0]:+.3f} ({over_champion[1]:+.3f} to"
            f" {over_champion[2]:+.3f}) over the champion's: it may be worse by more than {MARGIN}",
        )
    return Verdict(True, f"it beats {rule}, and is not worse than the champion")


def table_report(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table that is shown: kinds, then baselines, each with the majority beside."""
    rows = []
    for name, found in (*report["kinds"].items(), *report["baselines"].items()):
        rows.append(
            {
                "score": f"{name} (chosen)" if name == report["chosen"] else name,
                "auc": measure.shown(found, "auc"),
                "accuracy": measure.shown(found, "accuracy"),
                "ece": measure.shown(found, "ece"),
                "brier": measure.shown(found, "brier"),
            }
        )
    majority = f"{report['majority']:.3f}"
    return [
        *rows,
        {"score": "majority class", "auc": "0.500", "accuracy": majority, "ece": "", "brier": ""},
    ]
