"""No verdict says more than the evidence: a rigged win, a tie and a missing baseline are no advantage."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from tasks.quantum.engine import (
    Evidence,
    Series,
    classical,
    graphs,
    judge,
    problem_from,
    trial,
    verdict,
)
from tasks.quantum.engine.problem import Problem
from tasks.quantum.report import CAUTIOUS, overall

RIVALS = ("goemans_williamson", "k_means", "local_search", "random", "spectral")


def series(mean: float, *, noise: float = 0.0, seeds: int = 10, budget: float = 1.0) -> Series:
    drawn = np.random.default_rng(int(mean * 1000) % 1000).normal(scale=noise, size=seeds)
    return Series(mean + drawn, budget, budget / 2)


def evidence(quantum: float, best: float, **more: Any) -> Evidence:
    rivals = {name: series(best * 0.8) for name in RIVALS} | {"local_search": series(best)}
    given: dict[str, Any] = {
        "kind": "hardware", "quantum": series(quantum), "rivals": rivals, "optimum": None,
        "wanted": frozenset({"k_means"}),
    }  # fmt: skip
    return Evidence(**{**given, **more})


def test_only_hardware_beyond_any_exact_solver_is_a_candidate() -> None:
    said = judge(evidence(12.0, 10.0))
    assert said.name == "advantage_candidate" and said.rival == "local_search"
    assert said.p_value is not None and said.p_value < 0.01


@pytest.mark.parametrize("kind", ["ideal", "noisy_virtual"])
def test_a_rigged_win_on_a_simulator_is_no_advantage(kind: Any) -> None:
    said = judge(evidence(1e6, 10.0, kind=kind))
    assert said.name == "quantum_better_on_simulator" and "no advantage" in said.why


def test_a_win_where_the_optimum_is_known_is_none() -> None:
    assert judge(evidence(12.0, 10.0, optimum=12.0)).name == "inconclusive"
    said = judge(evidence(12.0, 10.0, optimum=11.0))
    assert said.name == "inconclusive" and "miscounted" in said.why


@pytest.mark.parametrize("kind", ["ideal", "noisy_virtual", "hardware"])
def test_a_tie_is_a_tie_and_says_who_was_sooner(kind: Any) -> None:
    fast = {name: replace(series(10.0), seconds=1e-4) for name in RIVALS}
    said = judge(evidence(10.0, 10.0, kind=kind, optimum=10.0, rivals=fast))
    assert said.name == "tie" and "5 000 times sooner" in said.why
    assert "random guessing with as many shots found it too" in said.why


@pytest.mark.parametrize("missing", RIVALS)
def test_a_missing_baseline_is_no_win(missing: str) -> None:
    whole = evidence(12.0, 10.0)
    less = {name: one for name, one in whole.rivals.items() if name != missing}
    said = judge(replace(whole, rivals=less))
    assert said.name == "inconclusive" and "a baseline is missing" in said.why


def test_too_few_seeds_and_too_little_time_are_no_win() -> None:
    whole = evidence(12.0, 10.0)
    assert "9 seeds" in judge(replace(whole, quantum=series(12.0, seeds=9))).why
    short = dict(whole.rivals) | {"local_search": series(10.0, budget=0.5)}
    said = judge(replace(whole, rivals=short))
    assert said.name == "inconclusive" and "less time" in said.why
    broken = replace(whole, quantum=Series(np.full(10, np.nan), 1.0, 1.0))
    assert judge(broken).name == "inconclusive"


def test_worse_is_said_and_noise_is_no_difference() -> None:
    said = judge(evidence(9.0, 10.0))
    assert said.name == "quantum_worse" and "local search cut more" in said.why
    rivals = {name: series(10.0, noise=1.0) for name in RIVALS}
    noisy = replace(evidence(10.1, 10.0), quantum=series(10.1, noise=1.0), rivals=rivals)
    assert judge(noisy).name == "inconclusive"


def test_a_run_has_the_most_cautious_verdict_of_its_cuts() -> None:
    assert set(CAUTIOUS) == set(get_args(verdict.Name))
    trials = [{"verdict": name, "why": name} for name in ("advantage_candidate", "tie")]
    assert overall(trials) == ("tie", "1 of 2 cuts: tie")
    assert overall([])[0] == "inconclusive"


def cloud(n: int) -> tuple[Problem, Any, Any]:
    rng = np.random.default_rng(n)
    points, masses = rng.normal(size=(n, 3)), rng.exponential(size=n) + 0.1
    return problem_from(graphs.weights_of("scatter", points, masses)), points, masses


def test_a_trial_is_fair_and_counts_what_it_says() -> None:
    problem, points, masses = cloud(10)
    held = trial(problem, 2, shots=128, points=points, masses=masses)
    assert len(held.solutions) == 10 and set(held.rivals) == set(RIVALS)
    assert held.optimum is not None
    best = max(problem.cut(problem.bits(np.arange(512))))
    assert held.optimum.value == pytest.approx(best)
    for name, answers in held.rivals.items():
        assert len(answers) == 10
        for answer, solution in zip(answers, held.solutions, strict=True):
            assert answer.value == pytest.approx(float(problem.cut(answer.bits)))
            assert answer.value <= held.optimum.value + 1e-9
            if name in ("local_search", "goemans_williamson"):
                done = answer.value == pytest.approx(held.optimum.value, rel=1e-9)
                assert done or answer.seconds >= solution.seconds, "the time that QAOA had"
    assert {each.tries for each in held.rivals["random"]} == {128}, "as many shots"
    assert held.verdict.name in ("tie", "quantum_worse", "inconclusive")
    for solution in held.solutions:
        assert solution.value == pytest.approx(float(problem.cut(solution.bits)))


@pytest.mark.parametrize(
    "weights",
    [np.zeros((1, 1)), np.zeros((5, 5)), np.ones((6, 6)) - np.eye(6), np.eye(6) - np.ones((6, 6))],
    ids=["one point", "no weight", "all equal", "all negative"],
)
def test_degenerate_problems_have_their_trivial_answer(weights: Any) -> None:
    problem = problem_from(weights)
    held = trial(problem, 2, shots=32)
    assert held.optimum is not None and held.best.value == held.optimum.value
    assert held.verdict.name in ("tie", "inconclusive")


def test_local_search_has_the_optimum_of_every_small_instance_at_once() -> None:
    rng = np.random.default_rng(0)
    for n in (4, 9, 16):
        problem, _, _ = cloud(n)
        answer = classical.local_search(problem, rng, 0.01)
        assert answer.value == pytest.approx(classical.exact(problem).value)


def test_rounding_the_relaxation_keeps_its_promise() -> None:
    """Goemans and Williamson: at least 0.878 of the optimum where no weight is negative."""
    rng = np.random.default_rng(1)
    for seed in range(5):
        weights = np.random.default_rng(seed).random((14, 14))
        problem = problem_from(weights + weights.T)
        answer = classical.goemans_williamson(problem, rng, 0.005)
        assert answer.value >= 0.878 * classical.exact(problem).value


def test_a_rival_that_has_the_optimum_does_not_wait_for_a_slow_simulator() -> None:
    """Time that could better nothing is not used up, and no verdict takes it for too little."""
    problem, _, _ = cloud(8)

    def slow(problem: Problem, gammas: Any, betas: Any, shots: int, seed: int) -> Any:
        ends = time.perf_counter() + 0.1
        while time.perf_counter() < ends:
            pass
        return np.zeros((shots, problem.n), dtype=np.int8)

    held = trial(problem, 1, shots=16, seeds=10, kind="noisy_virtual", measure=slow)
    assert held.optimum is not None
    answers = held.rivals["local_search"]
    assert min(each.value for each in answers) == pytest.approx(held.optimum.value)
    assert statistics.median(each.seconds for each in answers) < 0.05
    assert held.evidence.rivals["local_search"].budget >= held.evidence.quantum.budget * 0.99
    assert held.verdict.name == "quantum_worse"
