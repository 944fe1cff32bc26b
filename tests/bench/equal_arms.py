"""How often an experiment without an effect is said to have one, and how often a real gain is found.

First the sequential test alone, 4 000 experiments a rate; `--runs 0 --gains 0` leaves it at that. Then
arms by `ExperimentStep.draw` and verdicts by `tasks.experiment.verdict.judge`, one look a day for thirty
days: `python -m tests.bench.equal_arms --runs 1000`. It needs no server. An ordinary z at 1.96,
looked at daily, stands beside it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from schedules.arms import Arm, ExperimentStep
from tasks.experiment.power import sequential_per_arm, sequential_power
from tasks.experiment.sequential import always_valid_p, information
from tasks.experiment.verdict import Count, Epoch, Rules, judge

DAYS = 30
SHARES = {"a": 1, "b": 1}
RULES = Rules(least=1)


def days(
    base: float, lift: float, people: int, runs: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Conversions of two arms after each of the days with so many new people an arm; and people."""
    random = np.random.default_rng(seed)
    a = random.binomial(people, base, (runs, DAYS)).cumsum(axis=1)
    b = random.binomial(people, base * (1 + lift), (runs, DAYS)).cumsum(axis=1)
    return a, b, people * np.arange(1, DAYS + 1)


def found_by(a: np.ndarray, b: np.ndarray, n: np.ndarray) -> tuple[float, float]:
    """Share of the experiments in which some look found something: by the test, and by a plain z."""
    z = (b - a) / ((a + b) / 2) * np.sqrt(information(a, n, b, n))
    ours = (always_valid_p(a, n, b, n) < 0.05).any(axis=1)
    return float(ours.mean()), float((np.abs(z) > 1.96).any(axis=1).mean())


def drawn(runs: int, people: int) -> Iterator[np.ndarray]:
    """Which of the people are in arm b, of each run; every run is an experiment of its own."""
    for run in range(runs):
        step = ExperimentStep("split", (Arm("a", 1, "x"), Arm("b", 1, "x")), f"run {run}")
        yield np.array([step.draw("bench", who, SHARES) == "b" for who in range(people)])


def verdicts(in_b: np.ndarray, converts: np.ndarray) -> tuple[bool, bool]:
    """Whether any of the daily looks found something: by the verdict, and by a plain z."""
    found = naive = False
    for day in range(1, DAYS + 1):
        upto = len(in_b) * day // DAYS
        b, x = in_b[:upto], converts[:upto]
        n_b, x_b = int(b.sum()), int((b & x).sum())
        n_a, x_a = upto - n_b, int(x.sum()) - x_b
        counts = {"a": Count(n_a, n_a, x_a), "b": Count(n_b, n_b, x_b)}
        found |= judge("a", ["a", "b"], [Epoch(SHARES, counts)], RULES).answer in (
            "winner",
            "control",
        )
        known = float(information(x_a, n_a, x_b, n_b))
        if known:
            z = (x_b / n_b - x_a / n_a) / ((x_a + x_b) / upto) * math.sqrt(known)
            naive |= abs(z) > 1.96
        if found and naive:
            break
    return found, naive


def wrongly_found(
    runs: int, people: int, rates: Sequence[float], seed: int = 1
) -> dict[float, int]:
    """Return by base rate in how many of the runs something was found that is not there."""
    return {rate: found for rate, (found, _) in _equal(runs, people, rates, seed).items()}


def _equal(
    runs: int, people: int, rates: Sequence[float], seed: int
) -> dict[float, tuple[int, int]]:
    random = np.random.default_rng(seed)
    found = {rate: [0, 0] for rate in rates}
    for in_b in drawn(runs, people):
        for rate in rates:
            for index, hit in enumerate(verdicts(in_b, random.random(people) < rate)):
                found[rate][index] += hit
    return {rate: (ours, plain) for rate, (ours, plain) in found.items()}


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--people", type=int, default=6000, help="of both arms, over thirty days")
    parser.add_argument("--gains", type=int, default=100, help="runs with a real gain of a quarter")
    asked = parser.parse_args()
    say = sys.stdout.write
    for rate, people in ((0.01, 2000), (0.1, 500), (0.4, 300)):
        ours, plain = found_by(*days(rate, 0, people, 4000, seed=20260))
        say(f"the test alone, equal arms at {rate:.0%}: found {ours:.1%}, a daily z {plain:.1%}\n")
    each = sequential_per_arm(0.1, 0.11)
    found, _ = found_by(*days(0.1, 0.1, each // DAYS, 4000, seed=3))
    promised = sequential_power(0.1, 0.11, each)
    say(f"the test alone, 10% → 11%, {each} an arm: found {found:.1%}, promised {promised:.1%}\n")
    if not asked.runs or not asked.gains:
        return
    for rate, (ours, plain) in _equal(asked.runs, asked.people, (0.02, 0.1, 0.4), seed=1).items():
        shares = f"found {ours / asked.runs:.1%}, a daily z {plain / asked.runs:.1%}"
        say(f"equal arms at {rate:.0%}: {shares}\n")
    base, target = 0.1, 0.125
    each = sequential_per_arm(base, target)
    random = np.random.default_rng(2)
    hits = sum(
        verdicts(in_b, random.random(2 * each) < np.where(in_b, target, base))[0]
        for in_b in drawn(asked.gains, 2 * each)
    )
    promised = sequential_power(base, target, each)
    shares = f"found {hits / asked.gains:.1%}, promised {promised:.1%}"
    say(f"{base:.1%} → {target:.1%}, {each} an arm: {shares}\n")


if __name__ == "__main__":
    main()
