"""The estimator: scikit-learn's manners, probabilities that are true, and clear refusals."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("skops", reason="the extra ml is not installed")

from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.utils.estimator_checks import check_estimator

from tasks.churn import contest, engine, measure, own_table
from tasks.churn.contest import Part, TooLittle
from tasks.churn.engine import ChurnModel
from tasks.churn.explain import contributions, in_words, typical
from tasks.churn.lifetime import fit_purchases, fit_worth

DATA = Path(__file__).parents[1] / "data"


def rows(n: int = 400, seed: int = 0) -> tuple[pd.DataFrame, Any]:
    """Numbers with gaps, a category, and a class that depends on both."""
    chance = np.random.default_rng(seed)
    days = chance.exponential(60, n)
    plan = chance.choice(["free", "pro"], n)
    odds = 0.03 * (days - 60) - 1.5 * (plan == "pro")
    gone = chance.random(n) < 1 / (1 + np.exp(-odds))
    days[chance.random(n) < 0.05] = np.nan
    return pd.DataFrame({"days": days, "plan": plan, "constant": 1.0}), gone


@pytest.mark.parametrize("kind", ["logistic", "boosting"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_it_passes_the_checks_of_scikit_learn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def few_trees(**given: Any) -> Any:
        """Manners do not depend on how many there are; forty checks' time does."""
        return HistGradientBoostingClassifier(**given | {"max_iter": 20})

    monkeypatch.setattr(engine, "HistGradientBoostingClassifier", few_trees)
    results = check_estimator(ChurnModel(kind, folds=2), on_fail=None, on_skip=None)
    failed = [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")]
    assert len(results) > 40 and failed == []


@pytest.mark.parametrize("kind", ["logistic", "boosting", "mlp"])
def test_probabilities_are_those_of_the_world(kind: str) -> None:
    table, gone = rows(4000)
    model = ChurnModel(kind).fit(table[:2000], gone[:2000])
    said = model.predict_proba(table[2000:])[:, 1]
    assert measure.auc(gone[2000:], said) > 0.75
    assert measure.ece(gone[2000:], said) < 0.06
    assert set(model.predict(table[2000:])) == {False, True}


def test_a_category_that_the_fit_never_saw_is_answered() -> None:
    table, gone = rows()
    for kind in ("logistic", "boosting"):
        model = ChurnModel(kind).fit(table, gone)
        strange = table.head(2).assign(plan=["enterprise", None])
        assert np.isfinite(model.predict_proba(strange)).all()


def test_columns_come_in_any_order_and_none_may_be_missing() -> None:
    table, gone = rows()
    model = ChurnModel("logistic").fit(table, gone)
    turned = table[["constant", "plan", "days"]]
    assert (model.predict_proba(turned) == model.predict_proba(table)).all()
    with pytest.raises(
        ValueError, match="column 'plan' missing: the model was fitted to 3 columns"
    ):
        model.predict_proba(table.drop(columns="plan"))
    with pytest.raises(ValueError, match="column 'days' holds 'soon': numbers were expected"):
        model.predict_proba(table.assign(days="soon"))


def test_what_nothing_can_be_learned_from_is_refused_in_words() -> None:
    table, gone = rows()
    with pytest.raises(ValueError, match="y has 1 class, two were expected"):
        ChurnModel().fit(table, np.ones(400))
    with pytest.raises(ValueError, match="no column varies"):
        ChurnModel().fit(table[["constant"]], gone)
    with pytest.raises(ValueError, match="kind is 'forest': expected one of logistic"):
        ChurnModel("forest").fit(table, gone)

    def part(n: int, positive: Any) -> Part:
        return Part(table[:n], np.asarray(positive[:n], dtype=bool))

    for small, why in (
        (part(10, gone), "10 rows to train on: at least 100 were expected"),
        (part(400, np.ones(400)), "every row to train on is churned: a label with two classes"),
        (part(400, np.zeros(400)), "no row to train on is churned: a label with two classes"),
        (
            part(400, np.arange(400) < 5),
            "5 of 400 rows to train on are churned: at least 20 of each",
        ),
    ):
        with pytest.raises(TooLittle, match=why):
            contest.compete(small, None, part(400, gone), [], of="churned")


def test_the_artificial_set_reaches_its_goal_by_the_operators_command(tmp_path: Path) -> None:
    """`dripfleet churn train --data mlc_churn.csv.gz --label churn --train-rows 3333`."""
    asked = own_table.Asked(
        DATA / "mlc_churn.csv.gz", "churn", train_rows=3333, kinds=("boosting",)
    )
    artifact = own_table.train(asked)
    reached = artifact.manifest["report"]["kinds"]["boosting"]
    assert (
        reached["accuracy"][0] >= 0.95 and reached["auc"][0] >= 0.92 and reached["ece"][0] <= 0.03
    )
    assert reached["majority"] == pytest.approx(0.866, abs=0.001), "it stands beside the accuracy"
    names = {path.name for path in own_table.write(artifact, tmp_path)}
    assert names >= {"model.skops", "manifest.json", "card.md", "calibration.png", "gain.png"}
    card = (tmp_path / "card.md").read_text()
    assert "majority class" in card and "1667 to test" in card


def test_the_published_fits_of_cdnow_are_reproduced() -> None:
    """Fader, Hardie and Lee (2005), table 2; Fader and Hardie (2013), section 3."""
    sample = pd.read_csv(DATA / "cdnow_sample.csv.gz")
    bought = fit_purchases(sample["x"], sample["t_x"], sample["T"])
    found = (bought.r, bought.alpha, bought.a, bought.b)
    assert found == pytest.approx((0.243, 4.414, 0.793, 2.426), abs=0.001)
    assert bought.log_likelihood == pytest.approx(-9582.4, abs=0.05)
    # The paper's own example: two repeats, the last in week 30.43 of 38.86.
    assert bought.expected(39, [2], [30.43], [38.86])[0] == pytest.approx(1.226, abs=0.001)
    assert bought.alive([0], [0], [38.86])[0] == 1.0
    worth = fit_worth(sample["x"], sample["zbar"])
    assert (worth.p, worth.q, worth.v) == pytest.approx((6.25, 3.74, 15.44), abs=0.02)
    with pytest.raises(ValueError, match="no customer bought a second time"):
        fit_purchases([0, 0], [0, 0], [5, 9])


def test_figures_agree_with_scikit_learn_and_intervals_hold_them() -> None:
    chance = np.random.default_rng(1)
    score = np.round(chance.random(900), 2)  # with ties
    y = chance.random(900) < score
    assert measure.auc(y, score) == pytest.approx(roc_auc_score(y, score))
    found = measure.measure(y, score)
    assert found.auc.low < found.auc.value < found.auc.high < found.auc.low + 0.1
    assert found.ece is not None and found.ece.value < 0.08
    same = measure.auc_difference(y, score, score)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    worse = measure.auc_difference(y, chance.random(900), score)
    assert worse.high < 0
    assert measure.gain(y, y)[5]["found"] == pytest.approx(0.25 / y.mean(), abs=0.01)


def test_a_challenger_needs_its_whole_interval_over_the_rule() -> None:
    assert not contest.judge((0.01, -0.001, 0.02), "recency rule", None).promote
    assert contest.judge((0.01, 0.001, 0.02), "recency rule", None).promote
    assert not contest.judge((0.01, 0.001, 0.02), "recency rule", (-0.02, -0.03, -0.01)).promote
    assert contest.judge((0.01, 0.001, 0.02), "recency rule", (0.0, -0.004, 0.004)).promote


def test_contributions_name_what_moves_a_score() -> None:
    table, gone = rows(2000)
    model = ChurnModel("logistic").fit(table, gone)
    usual = typical(table)
    row = pd.DataFrame({"days": [300.0], "plan": ["free"], "constant": [1.0]})
    first = contributions(model, row, usual)[0]
    assert first.feature == "days" and first.moves > 1
    assert "days away: 300, typical" in in_words(first, "days away")
    assert "raises it (+" in in_words(first, "days away")
    assert [c.feature for c in contributions(model, row, usual)].count("constant") == 0


def test_a_network_that_does_not_settle_warns_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def hurried(*layers: Any, **given: Any) -> Any:
        return MLPClassifier(*layers, **given | {"max_iter": 3})

    monkeypatch.setattr(engine, "MLPClassifier", hurried)
    table, gone = rows()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = ChurnModel("mlp").fit(table, gone)
    assert model.pipeline_["model"].n_iter_ == 3, "it was stopped before it had settled"
    chances = model.predict_proba(table)
    assert np.isfinite(chances).all() and 0 <= chances.min() < chances.max() <= 1
