"""Uplift: the coefficient is the published one, a planted effect is found, and none is not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("skops", reason="the extra ml is not installed")

from tasks.churn import uplift_name
from tasks.churn.artifact import pack, unpack
from tasks.churn.explain import contributions, typical
from tasks.churn.kinds import named
from tasks.churn.qini import CROSS_FITTED, by_part, curve, perfect, qini
from tasks.churn.uplift import UpliftModel, out_of_fold
from tasks.errors import Permanent
from tasks.sequence.unseen import UPLIFT
from tests.bench.uplift_found import shown, world


def ranked(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    x, treated = chance.normal(size=n), chance.random(n) < share
    y = chance.random(n) < np.clip(0.2 + 0.1 * treated * x, 0, 1)
    return y, treated, np.round(x + chance.normal(size=n), 1)


@pytest.mark.parametrize(
    "n, share, seed, value",
    [
        (400, 0.5, 1, 0.1904629511880383),
        (3000, 0.9, 2, 0.09104573193846828),
        (3000, 0.5, 3, 0.11943110294193714),
    ],
)
def test_the_coefficient_is_that_of_scikit_uplift(
    n: int, share: float, seed: int, value: float
) -> None:
    """`sklift.metrics.qini_auc_score(y, score, treated)` of scikit-uplift 0.5.1 on these rows."""
    y, treated, score = ranked(n, share, seed)
    found = qini(y, treated, score)
    assert found.value == pytest.approx(value, rel=1e-12) and found.low < value < found.high


def test_eight_people_by_hand() -> None:
    y, treated = [1, 0, 1, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 0, 0, 1]
    score = [0.9, 0.8, 0.8, 0.5, 0.5, 0.3, 0.2, 0.1]
    # Ends at 1, 3, 5, 6, 7, 8 people; conversions more there: 1, 2, .5, 1, .5, 0.
    area = 0.5 + 3 + 2.5 + 0.75 + 0.75 + 0.25
    assert qini(y, treated, score).value == pytest.approx(area / perfect(y, treated))
    assert perfect(y, treated) == pytest.approx(12) and area == 7.75
    points = {round(p["mailed"] * 8, 9): p["brings"] for p in curve(y, treated, score)}
    assert points[0] == points[8] == 0 and points[2] == pytest.approx(1000 * 1.5 / 4)


def test_people_of_an_arm_that_was_seldom_given_count_for_more() -> None:
    """Two spans, half and half and then one of ten; weighted, the ranking is as good as in the first."""
    y, treated, score = ranked(20_000, 0.5, 4)
    chance = np.random.default_rng(5)
    later = np.arange(len(y)) >= 10_000
    rare = later & ~treated & (chance.random(len(y)) > 1 / 9)
    kept = ~rare
    weights = np.where(treated, 1 / np.where(later, 0.9, 0.5), 1 / np.where(later, 0.1, 0.5))
    whole = qini(y, treated, score)
    part = qini(y[kept], treated[kept], score[kept], weights=weights[kept])
    assert part.low < whole.value < part.high
    alike = qini(y, treated, score, weights=np.full(len(y), 7.0))
    assert alike == whole


def test_a_planted_effect_is_found_and_is_where_it_was_planted() -> None:
    table, y, treated = world(3000, 0.5, 1, planted=0.1)
    foretold = out_of_fold(UpliftModel(), table, y, treated)
    found = qini(y, treated, foretold, widen=CROSS_FITTED)
    assert found.low > 0.05
    narrow = qini(y, treated, foretold)
    assert found.value - found.low == pytest.approx(2**0.5 * (narrow.value - narrow.low))
    assert np.corrcoef(foretold, table["x0"])[0, 1] > 0.8
    parts = by_part(y, treated, foretold)
    assert parts[0]["seen"][0] > 0.1 > parts[-1]["seen"][2] - 0.1
    model = UpliftModel().fit(table, y, treated)
    top = contributions(model, table.iloc[[int(table["x0"].argmax())]], typical(table))[0]
    assert top.feature == "x0" and top.moves > 5


def test_where_the_mail_moves_everybody_alike_a_gain_is_seldom_shown() -> None:
    """Of 170 equal worlds two showed one; `tests.bench.uplift_found` makes as many as one likes."""
    assert shown(600, 0.5, planted=0.0, runs=4) <= 1
    assert shown(800, 0.5, planted=0.15, runs=1) == 1


def test_an_artifact_of_it_answers_the_same_and_holds_no_foreign_type() -> None:
    table, y, treated = world(600, 0.5, 2, planted=0.1)
    for kind in ("logistic", "boosting"):
        model = UpliftModel(kind).fit(table, y, treated)
        packed = pack("uplift:a", model, table, {"report": {}})
        again = unpack(replace(packed, manifest=json.loads(json.dumps(packed.manifest))))
        assert (again.predict(table) == model.predict(table)).all()
        assert np.all(np.abs(again.predict(table)) <= 1)
    with pytest.raises(ValueError, match="columns x0 missing"):
        model.predict(table.drop(columns="x0"))
    with pytest.raises(ValueError, match=r"0 of .* people of an arm reached the goal"):
        UpliftModel().fit(table, y & treated, treated)


def test_its_name_says_of_what_it_is() -> None:
    assert uplift_name.PREFIX == UPLIFT
    asked = uplift_name.parse("uplift:win-back/split/offer")
    assert (asked.sequence, asked.step, asked.arm) == ("win-back", "split", "offer")
    assert str(uplift_name.parse("win-back")) == "win-back"
    assert "the mails of win-back add" in named("uplift:win-back").foretells
    for wrong in ("uplift:", "uplift:a//b", "uplift:a/b/c/d"):
        with pytest.raises(Permanent, match="names no uplift: expected uplift:SEQUENCE"):
            uplift_name.parse(wrong)
    with pytest.raises(Permanent, match="expected one of churn, engagement, clv, or uplift:"):
        named("uplft:a")


@pytest.mark.parametrize("low, word", [(0.001, None), (0.0, "does not lie above 0")])
def test_it_is_offered_only_while_the_interval_lies_above_zero(
    low: float, word: str | None
) -> None:
    why = uplift_name.no_gain("uplift:a", {"qini": [0.05, low, 0.1]})
    assert why is None if word is None else word in (why or "")
