"""The statistics of experiments against published figures, and under no effect at all."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from tasks.experiment.bootstrap import mean_difference
from tasks.experiment.bounds import FAR, alpha_of, crossing, fixed, spending
from tasks.experiment.guardrail import evidence, harmful
from tasks.experiment.holm import holm
from tasks.experiment.intervals import newcombe, wilson
from tasks.experiment.posterior import chance_of_best, chance_of_more, credible
from tasks.experiment.power import (
    group_per_arm,
    per_arm,
    power_of,
    sequential_per_arm,
    sequential_power,
)
from tasks.experiment.ratio import sample_ratio
from tasks.experiment.sequential import (
    EFFECT,
    always_valid_interval,
    always_valid_p,
    boundary,
)
from tests.bench.equal_arms import DAYS, days, found_by

LOOKS = DAYS


@pytest.mark.parametrize(("base", "people"), [(0.01, 2000), (0.1, 500), (0.4, 300)])
def test_thirty_daily_looks_at_two_equal_arms_find_something_in_five_of_a_hundred_at_most(
    base: float, people: int
) -> None:
    a, b, n = days(base, 0, people, 4000, seed=20260)
    found, plain = found_by(a, b, n)
    assert found <= 0.05
    # What one gets by looking at an ordinary z every day.
    assert 0.24 <= plain <= 0.31


@pytest.mark.parametrize(("share", "delay"), [(0.5, 10), (0.2, 0), (0.2, 10)])
def test_it_holds_too_where_conversions_come_late_and_arms_are_of_different_size(
    share: float, delay: int
) -> None:
    """Everybody comes within ten days and converts up to `delay` days on; one looks for thirty."""
    random = np.random.default_rng(5)
    runs, people, base = 1500, 1500, 0.15
    arrives = np.minimum(np.arange(people) * 10 // people, 9)
    late = random.integers(0, delay + 1, (runs, people))
    converts = np.where(random.random((runs, people)) < base, arrives + late, LOOKS)
    in_b = random.random((runs, people)) < share
    found = np.zeros(runs, dtype=bool)
    for day in range(LOOKS):
        done, here = converts <= day, arrives <= day
        n_b = (in_b & here).sum(axis=1)
        n_a, x_b, x = here.sum() - n_b, (done & in_b).sum(axis=1), done.sum(axis=1)
        found |= always_valid_p(x - x_b, n_a, x_b, n_b) < 0.05
    assert found.mean() <= 0.05


def test_a_real_gain_is_found_with_the_power_that_was_promised() -> None:
    people = sequential_per_arm(0.1, 0.11)
    promised = sequential_power(0.1, 0.11, people)
    assert 0.8 <= promised < 0.802
    a, b, n = days(0.1, 0.1, people // LOOKS, 4000, seed=3)
    found, _ = found_by(a, b, n)
    assert abs(found - promised) < 3 * math.sqrt(0.8 * 0.2 / 4000)


def test_the_interval_is_where_the_p_value_is_above_its_level() -> None:
    for x_b in (90, 120, 170, 260):
        low, high = always_valid_interval(100, 1000, x_b, 1000)
        significant = float(always_valid_p(100, 1000, x_b, 1000)) < 0.05
        assert significant == (not low < 0 < high)
        assert low <= (x_b - 100) / 1000 <= high
    assert always_valid_interval(0, 0, 0, 0) == (-1, 1)
    assert always_valid_p(0, 10, 0, 10) == 1 and always_valid_p(0, 0, 0, 0) == 1
    # The likelihood ratio at its bound is 1/α by definition.
    z, known = float(boundary(500.0)), 500.0
    ratio = EFFECT**2 * known
    assert math.exp(z**2 * ratio / (2 * (1 + ratio))) / math.sqrt(1 + ratio) == pytest.approx(20)


def test_bounds_are_those_of_the_tables() -> None:
    assert fixed("pocock", 5) == pytest.approx([2.413] * 5, abs=5e-4)
    assert fixed("obrien_fleming", 5)[-1] == pytest.approx(2.040, abs=5e-4)
    # Jennison and Turnbull, tables 2.1 and 2.3: K = 2 and 10.
    assert fixed("pocock", 2)[0] == pytest.approx(2.178, abs=5e-4)
    assert fixed("pocock", 10)[0] == pytest.approx(2.555, abs=5e-4)
    assert fixed("obrien_fleming", 10)[-1] == pytest.approx(2.087, abs=5e-4)
    assert fixed("pocock", 1) == pytest.approx([1.959964], abs=1e-6)


def test_spending_is_that_of_lan_and_demets_each_side_spending_half() -> None:
    fifths = [0.2, 0.4, 0.6, 0.8, 1.0]
    assert spending("obrien_fleming", fifths) == pytest.approx(
        [4.8769, 3.3570, 2.6803, 2.2898, 2.0310], abs=1e-4
    )
    assert spending("pocock", fifths) == pytest.approx(
        [2.4380, 2.4268, 2.4102, 2.3966, 2.3860], abs=1e-4
    )
    uneven = spending("obrien_fleming", [0.05, 0.5, 1.0])
    assert uneven[0] == FAR and alpha_of(uneven, [0.05, 0.5, 1.0]) == pytest.approx(0.05, abs=1e-6)


def test_looks_with_bounds_of_one_look_find_what_armitage_found() -> None:
    """Armitage, McPherson and Rowe (1969), table 2: repeated looks at 5 %."""
    for looks, found in ((2, 0.083), (5, 0.142), (10, 0.193), (20, 0.248)):
        level = alpha_of([1.959964] * looks, [float(k) for k in range(1, looks + 1)])
        assert level == pytest.approx(found, abs=1e-3)
    with pytest.raises(ValueError, match="information growing"):
        crossing([2, 2], [1, 1])


def test_people_an_arm_are_those_of_the_formula() -> None:
    assert per_arm(0.10, 0.11) == 14_751
    assert power_of(0.10, 0.11, 14_751) == pytest.approx(0.8, abs=1e-4)
    # Looking five times costs 2.8 % with O'Brien and Fleming, 22.9 % with Pocock (tables 2.2, 2.4).
    assert group_per_arm(0.1, 0.11, fixed("obrien_fleming", 5)) / 14_751 == pytest.approx(
        1.028, abs=2e-3
    )
    assert group_per_arm(0.1, 0.11, fixed("pocock", 5)) / 14_751 == pytest.approx(1.229, abs=2e-3)
    with pytest.raises(ValueError, match="two different ones between 0 and 1"):
        per_arm(0.1, 0.1)


def exactly_more(x_a: int, n_a: int, x_b: int, n_b: int) -> float:
    """Miller's closed form, in fractions."""
    alpha_a, beta_a, alpha_b, beta_b = 1 + x_a, 1 + n_a - x_a, 1 + x_b, 1 + n_b - x_b

    def beta(a: int, b: int) -> Fraction:
        return Fraction(math.factorial(a - 1) * math.factorial(b - 1), math.factorial(a + b - 1))

    return float(
        sum(
            beta(alpha_a + i, beta_b + beta_a)
            / ((beta_b + i) * beta(1 + i, beta_b) * beta(alpha_a, beta_a))
            for i in range(alpha_b)
        )
    )


@pytest.mark.parametrize(
    "counts", [(0, 0, 0, 0), (0, 20, 3, 20), (100, 1000, 120, 1000), (7, 9, 1, 90)]
)
def test_the_posterior_is_the_closed_form(counts: tuple[int, int, int, int]) -> None:
    assert chance_of_more(*counts) == pytest.approx(exactly_more(*counts), abs=1e-9)


def test_the_chances_to_be_best_sum_to_one_also_in_a_large_experiment() -> None:
    arms = [(10_000, 1_000_000), (10_200, 1_000_000), (10_100, 900_000)]
    assert sum(chance_of_best(arms)) == pytest.approx(1, abs=1e-9)
    assert chance_of_best([(5, 50)] * 4) == pytest.approx([0.25] * 4)
    low, high = credible(10, 100)
    assert low == pytest.approx(0.0556, abs=5e-4) and high == pytest.approx(0.1746, abs=5e-4)
    with pytest.raises(ValueError, match="11 conversions of 10 people"):
        chance_of_more(1, 10, 11, 10)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    # Newcombe 1998, table II, method 10.
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090),
     ((6, 7), (2, 7), 0.0582, 0.8062), ((5, 56), (0, 29), -0.0381, 0.1926),
     ((0, 10), (0, 20), -0.1611, 0.2775), ((10, 10), (0, 20), 0.6791, 1.0000)],
)  # fmt: skip
def test_the_interval_of_a_difference_is_newcombes(
    a: tuple[int, int], b: tuple[int, int], low: float, high: float
) -> None:
    # His difference is the first minus the second.
    assert newcombe(*b, *a) == pytest.approx((low, high), abs=1e-4)


def test_intervals_say_nothing_where_nobody_was_asked() -> None:
    assert wilson(0, 0) == (0, 1) and newcombe(0, 0, 1, 2) == (-1, 1)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998a


def test_a_bootstrap_is_the_same_again_and_near_the_normal_interval() -> None:
    random = np.random.default_rng(1)
    a, b = random.gamma(2, 10, 300).tolist(), random.gamma(2, 12, 360).tolist()
    found = mean_difference(a, 3000, b, 3000, seed=7)
    assert found == mean_difference(a[::-1], 3000, b, 3000, seed=7)
    full = [np.array([*each, *[0] * (3000 - len(each))]) for each in (a, b)]
    half = 1.96 * math.sqrt(sum(each.var() for each in full) / 3000)
    middle = full[1].mean() - full[0].mean()
    assert found == pytest.approx((middle - half, middle + half), abs=half / 10)
    with pytest.raises(ValueError, match="more values than people"):
        mean_difference([1, 2], 1, [], 5)


def test_holm_is_his_own_example_and_keeps_the_order() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({}) == {} and holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_a_sample_ratio_is_judged_over_all_spans_of_equal_shares() -> None:
    # Fabijan et al.: 821 588 and 815 482 of halves.
    assert sample_ratio([((821_588, 815_482), (50, 50))]) == pytest.approx(1.8e-6, rel=0.05)
    assert sample_ratio([((500, 510), (1, 1)), ((98, 902), (1, 9))]) > 0.5
    assert sample_ratio([((0, 0), (1, 1))]) == 1 and sample_ratio([]) == 1
    assert sample_ratio([((10, 1), (1, 0))]) == 0 and sample_ratio([((10, 0), (1, 0))]) == 1
    with pytest.raises(ValueError, match="one of each an arm"):
        sample_ratio([((1, 2), (1,))])


def test_a_guardrail_stops_what_is_harmful_and_seldom_what_is_not() -> None:
    random = np.random.default_rng(11)

    def stopped(rate: float) -> float:
        counts = random.binomial(500, rate, (400, 40)).cumsum(axis=1)
        return float(
            np.mean(
                [
                    any(harmful(int(n), 500 * (k + 1), 0.001) for k, n in enumerate(run))
                    for run in counts
                ]
            )
        )

    assert stopped(0.001) <= 0.05 and stopped(0.0005) <= 0.01
    assert stopped(0.003) > 0.95
    assert not harmful(0, 0, 0.001) and evidence(0, 0, 0.001) == 1
    # Each mail complained of: no need to wait for a thousand.
    assert harmful(2, 5, 0.001) and not harmful(1, 5, 0.001)
    with pytest.raises(ValueError, match="a limit between 0 and 1"):
        evidence(1, 2, 0)
