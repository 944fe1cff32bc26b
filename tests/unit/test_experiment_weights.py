"""Arms whose weights move: who is sent where, and what can be said of it afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.experiment.verdict import Count, Epoch, Rules, judge
from tasks.experiment.weighted import difference, thompson, weighted

RULES = Rules(least=100, moved=True)


def lived(
    rates: tuple[float, float], seed: int, days: int = 30, people: int = 300, season: float = 0.0
) -> list[Epoch]:
    """Epochs of an experiment whose weights move every day; `season`: how far the rate falls meanwhile."""
    random = np.random.default_rng(seed)
    epochs: list[Epoch] = []
    shares = {"a": 50, "b": 50}
    for day in range(days):
        n_b = int(random.binomial(people, shares["b"] / sum(shares.values())))
        counts = {}
        for arm, n, rate in (("a", people - n_b, rates[0]), ("b", n_b, rates[1])):
            counts[arm] = Count(n, n, int(random.binomial(n, rate * (1 - season * day / days))))
        epochs.append(Epoch(shares, counts))
        spans = {
            arm: [
                (
                    e.shares[arm] / sum(e.shares.values()),
                    e.counts[arm].people,
                    e.counts[arm].converted,
                )
                for e in epochs
            ]
            for arm in shares
        }
        shares = thompson(spans, f"{seed} {day}", draws=100) or shares
    return epochs


def test_people_are_sent_where_it_is_better_and_every_arm_keeps_a_tenth() -> None:
    last = lived((0.1, 0.2), seed=1)[-1].shares
    assert last["a"] == 10 and last["b"] >= 90
    assert thompson({"a": [(0.5, 50, 5)], "b": [(0.5, 500, 5)]}, "x") is None
    three = thompson({arm: [(1 / 3, 1000, 100)] for arm in "abc"}, "x")
    assert three is not None and all(25 < each < 42 for each in three.values())


def test_moving_weights_find_something_where_there_is_nothing_in_five_of_a_hundred_at_most() -> (
    None
):
    """Looked at on every day, while the rate falls to a fifth: raw rates would differ by the season."""
    runs, found = 50, 0
    for seed in range(runs):
        epochs = lived((0.2, 0.2), seed, days=20, season=0.8)
        found += any(
            judge("a", ["a", "b"], epochs[:day], RULES).answer in ("winner", "control")
            for day in range(1, 21)
        )
    assert found <= 0.05 * runs + 2


def test_a_real_difference_is_found_and_its_interval_holds_it() -> None:
    found = judge("a", ["a", "b"], lived((0.1, 0.16), seed=3), RULES)
    assert (found.answer, found.arm) == ("winner", "b")
    [one] = found.comparisons
    assert one.low < 0.06 < one.high and one.rate == pytest.approx(0.16, abs=0.02)


def test_a_weighted_rate_is_what_it_would_have_been_with_shares_that_stand_still() -> None:
    # 80 % came in when everybody converted twice as often.
    spans = [(0.8, 800, 160), (0.2, 200, 20)]
    found = weighted(spans)
    assert found is not None and found.rate == pytest.approx(0.15)
    assert found.effective == pytest.approx(2000**2 / (800 / 0.64 + 200 / 0.04))
    assert weighted([(0.5, 0, 0)]) is None
    apart, low, high, p = difference(spans, [(0.2, 200, 40), (0.8, 800, 80)], 2000, 0.1, 0.05)
    assert apart == pytest.approx(0) and low < 0 < high and p == 1
    assert difference([], [], 0, 0.1, 0.05) == (0, -1, 1, 1)


def test_what_too_few_stand_for_is_not_told() -> None:
    shares = {"a": 90, "b": 10}
    counts = {"a": Count(900, 900, 90), "b": Count(80, 80, 30)}
    found = judge("a", ["a", "b"], [Epoch(shares, counts)], RULES)
    assert found.comparisons == () and found.refused == {"b": pytest.approx(80)}
    assert found.answer == "too_early"
