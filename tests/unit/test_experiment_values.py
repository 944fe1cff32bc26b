"""Value per person may be looked at every day: skewed values, thirty looks, no difference found."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numpy")

from tasks.experiment.sequential import always_valid_interval, always_valid_p
from tasks.experiment.values import Worth, gap


def worths(rate: float, scale: float, people: int, looks: int, seed: int) -> list[Worth]:
    """One arm as it stands at each look: a share has lognormal values, cut at their 99th percentile."""
    chance = np.random.default_rng(seed)
    values = np.where(chance.random(people) < rate, scale * chance.lognormal(3, 1, people), 0)
    values = np.minimum(values, np.exp(3 + 2.326))
    upto = people * np.arange(1, looks + 1) // looks
    totals, squares, valued = (
        np.cumsum(each)[upto - 1] for each in (values, values**2, values > 0)
    )
    return [
        Worth(int(n), int(k), float(t), float(s))
        for n, k, t, s in zip(upto, valued, totals, squares, strict=True)
    ]


def found(run: int, scale: float) -> bool:
    a, b = (worths(0.1, each, 6000, 30, 2 * run + k) for k, each in enumerate((1.0, scale)))
    gaps = (gap(ours, theirs, effect=0.2) for ours, theirs in zip(a, b, strict=True))
    return any(each is not None and each.p < 0.05 for each in gaps)


def test_thirty_looks_at_equal_arms_find_something_in_five_of_a_hundred_at_most() -> None:
    assert sum(found(run, 1.0) for run in range(300)) <= 15


def test_an_arm_that_sells_for_half_as_much_again_is_found() -> None:
    assert sum(found(run, 1.5) for run in range(40)) >= 36


def test_values_that_are_all_one_are_rates() -> None:
    """Where everybody's value is 1 the mean is the rate, and the test is that of the rates."""
    mine = gap(Worth(9000, 900, 900, 900), Worth(9000, 1000, 1000, 1000), effect=0.1)
    assert mine is not None
    low, high = always_valid_interval(900, 9000, 1000, 9000)
    assert [mine.low, mine.high] == pytest.approx([low, high], rel=0.01)
    assert mine.p == pytest.approx(float(always_valid_p(900, 9000, 1000, 9000)), rel=0.05)
    assert (mine.p < 0.05) == (mine.low > 0)


def test_too_few_values_or_values_that_do_not_vary_say_nothing() -> None:
    assert gap(Worth(900, 99, 990, 9900), Worth(900, 200, 2000, 20000)) is None
    assert gap(Worth(200, 200, 200, 200), Worth(200, 200, 200, 200)) is None
    assert gap(Worth(0, 0, 0, 0), Worth(0, 0, 0, 0)) is None
