"""The engine's laws, checked on a simulation that knows no trick."""

from __future__ import annotations

import math
import time
from typing import Any

import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.quantum.engine import (
    BadGraph,
    Qaoa,
    minimum_search,
    optimize,
    problem_from,
    problem_of,
    qaoa_expectation,
    zz_kernel,
)  # fmt: skip
from tasks.quantum.engine import clusters as fidelity_clusters
from tasks.quantum.engine.angles import fixed, longer
from tasks.quantum.engine.kernels import angles_of
from tasks.quantum.engine.problem import Floats


def plain(weights: Floats, gammas: Floats, betas: Floats) -> float:
    """⟨C⟩ from all 2ⁿ amplitudes, gate by gate."""
    n = len(weights)
    bits = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
    spins = 1 - 2 * bits
    cost = weights.sum() / 4 - np.einsum("ki,ij,kj->k", spins, weights, spins) / 4
    state = np.full(1 << n, 2 ** (-n / 2), dtype=complex)
    for gamma, beta in zip(gammas, betas, strict=True):
        state = state * np.exp(-1j * gamma * cost)
        for q in range(n):
            pairs = state.reshape(-1, 2, 1 << q)
            up, down = pairs[:, 0].copy(), pairs[:, 1].copy()
            pairs[:, 0] = math.cos(beta) * up - 1j * math.sin(beta) * down
            pairs[:, 1] = math.cos(beta) * down - 1j * math.sin(beta) * up
    return float((np.abs(state) ** 2 * cost).sum())


def weights(n: int, seed: int = 0) -> Floats:
    drawn = np.random.default_rng(seed).normal(size=(n, n))
    found: Floats = drawn + drawn.T
    np.fill_diagonal(found, 0)
    return found


# Sizes on both sides of every border of the kernels: one tile, one more bit, a second group of bits.
@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 11, 12, 13, 15])
def test_the_half_state_gives_what_the_whole_one_does(n: int) -> None:
    rng = np.random.default_rng(n)
    problem = problem_from(weights(n))
    qaoa = Qaoa(problem)
    for p in (1, 2):
        gammas, betas = rng.normal(size=p), rng.normal(size=p)
        expected = plain(problem.weights, gammas, betas)
        assert qaoa.expectation(gammas, betas) == pytest.approx(expected, abs=1e-11)
        value, by_gamma, by_beta = qaoa.gradient(gammas, betas)
        assert value == pytest.approx(expected, abs=1e-11)
        for k in range(p):
            step = np.eye(p)[k] * 1e-5
            ahead, behind = (
                qaoa.expectation(gammas + step, betas),
                qaoa.expectation(gammas - step, betas),
            )
            assert by_gamma[k] == pytest.approx((ahead - behind) / 2e-5, abs=1e-6)
            ahead, behind = (
                qaoa.expectation(gammas, betas + step),
                qaoa.expectation(gammas, betas - step),
            )
            assert by_beta[k] == pytest.approx((ahead - behind) / 2e-5, abs=1e-6)


def test_more_than_eight_bits_beyond_a_tile_are_mixed_too() -> None:
    graph = nx.random_regular_graph(3, 20, seed=5)
    qaoa = Qaoa(problem_of(graph))
    # Without a phase nothing happens; with β = π/2 every bit is flipped: the cut stays the mean.
    assert qaoa.expectation([0.0], [0.3]) == pytest.approx(15.0, abs=1e-9)
    edges = list(graph.edges)
    small: nx.Graph[int] = nx.Graph(graph.edges)
    assert qaoa.expectation([0.4], [0.3]) == pytest.approx(
        sum(_one_layer(small, a, b, 0.4, 0.3) for a, b in edges), abs=1e-9
    )


def _one_layer(graph: nx.Graph[Any], a: int, b: int, gamma: float, beta: float) -> float:
    """⟨C_ab⟩ at p = 1: Wang, Hadfield, Jiang, Rieffel, arXiv:1706.02998, theorem 1."""
    d, e = graph.degree(a) - 1, graph.degree(b) - 1
    triangles = len(set(graph[a]) & set(graph[b]))
    c = math.cos(gamma)
    return float(
        0.5
        + 0.25 * math.sin(4 * beta) * math.sin(gamma) * (c**d + c**e)
        - 0.25
        * math.sin(2 * beta) ** 2
        * c ** (d + e - 2 * triangles)
        * (1 - math.cos(2 * gamma) ** triangles)
    )


def test_an_edge_without_weight_weighs_one_and_a_loop_nothing() -> None:
    graph: nx.Graph[str] = nx.Graph([("a", "b"), ("b", "c"), ("a", "a")])
    graph["b"]["c"]["weight"] = 2.5
    problem = problem_of(graph)
    assert problem.weights.sum() / 2 == 3.5 and problem.diagonal.max() == 3.5
    assert qaoa_expectation(graph, [], []) == pytest.approx(1.75)
    assert qaoa_expectation(nx.empty_graph(3), [0.2], [0.1]) == 0.0


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        (nx.Graph([(0, 1, {"weight": math.nan})]), "weighs nan: expected a finite number"),
        (nx.Graph([(0, 1, {"weight": "much"})]), "weighs 'much': expected a number"),
        (nx.DiGraph([(0, 1)]), "is directed"),
        (nx.empty_graph(0), "has no vertex"),
        (nx.path_graph(25), "has 25 vertices: expected at most 24, one qubit each"),
    ],
)
def test_a_graph_that_cannot_be_cut_is_refused_in_a_sentence(
    graph: nx.Graph[Any], why: str
) -> None:
    with pytest.raises(BadGraph, match=why):
        qaoa_expectation(graph, [0.1], [0.1])


def test_angles_that_are_no_angles_are_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        qaoa_expectation(nx.path_graph(3), [0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="no finite number"):
        qaoa_expectation(nx.path_graph(3), [math.inf], [0.1])


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_the_unit_of_the_weights_changes_nothing(scale: float) -> None:
    ratios = []
    for factor in (1.0, scale):
        problem = problem_from(np.abs(weights(9, seed=3)) * factor)
        best = optimize(Qaoa(problem), 2)
        ratios.append(best.expectation / problem.diagonal.max())
    assert ratios[0] == pytest.approx(ratios[1], abs=1e-5)


def test_negative_and_equal_weights_are_climbed_too() -> None:
    for matrix in (-np.abs(weights(8)), np.ones((8, 8)) - np.eye(8)):
        problem = problem_from(matrix)
        best = optimize(Qaoa(problem), 2)
        mean = matrix.sum() / 4
        assert best.expectation >= mean and best.expectation <= problem.diagonal.max() + 1e-9


def test_interp_reaches_with_each_layer_at_least_what_the_layer_before_did() -> None:
    problem = problem_from(np.abs(weights(10, seed=7)))
    best = optimize(Qaoa(problem), 4, start="interp")
    reached = [best.by_layers[p] for p in (1, 2, 3, 4)]
    assert reached == sorted(reached)
    assert best.expectation >= Qaoa(problem).expectation(*fixed(problem, 4))
    assert longer(np.array([1.0])).tolist() == [1.0, 1.0]


def test_a_deadline_ends_the_climb_with_the_best_so_far() -> None:
    problem = problem_from(np.abs(weights(12, seed=1)))
    best = optimize(Qaoa(problem), 3, deadline=time.monotonic() - 1)
    assert not best.converged and best.evaluations <= 2
    assert best.expectation > problem.weights.sum() / 4


def test_phases_are_right_to_the_last_places() -> None:
    cost = np.concatenate([np.linspace(-1e3, 1e3, 4001), [0.0, 1e5, -1e5]])
    cosine, sine = np.empty_like(cost), np.empty_like(cost)
    angles_of(cost, 1.7, cosine, sine)
    assert np.abs(cosine - np.cos(1.7 * cost)).max() < 1e-11
    assert np.abs(sine - np.sin(1.7 * cost)).max() < 1e-11


def test_samples_are_drawn_by_their_probability() -> None:
    problem = problem_from(np.abs(weights(6, seed=2)))
    qaoa = Qaoa(problem)
    gammas, betas = fixed(problem, 2)
    drawn = qaoa.sample(gammas, betas, 200_000, np.random.default_rng(0))
    seen = np.bincount(drawn, minlength=32) / 200_000
    assert np.abs(seen - qaoa.probabilities(gammas, betas)).max() < 5e-3


def classical_search(
    values: Floats, threshold: float, iterations: int, rng: np.random.Generator
) -> int:
    """A Grover search by its formula."""
    marked = np.flatnonzero(values < threshold)
    angle = math.asin(math.sqrt(len(marked) / len(values)))
    if rng.random() < math.sin((2 * iterations + 1) * angle) ** 2:
        return int(rng.choice(marked))
    return int(rng.choice(np.flatnonzero(values >= threshold)))


def test_durr_hoyer_has_the_minimum_at_least_every_other_time() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=256)
    runs = [minimum_search(values, rng, classical_search) for _ in range(100)]
    assert sum(run.index == int(values.argmin()) for run in runs) >= 50
    for run in runs:
        assert (
            run.value == values[run.index] and list(run.thresholds) == sorted(run.thresholds)[::-1]
        )
        assert run.expected == pytest.approx(22.5 * 16)


def test_the_fidelity_kernel_is_a_kernel() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 3))
    kernel = zz_kernel(rows, rows)
    assert kernel.shape == (12, 12) and np.allclose(np.diag(kernel), 1)
    assert np.allclose(kernel, kernel.T) and np.linalg.eigvalsh(kernel).min() > -1e-9
    assert zz_kernel(rows[:2], rows[2:5]).shape == (2, 3)
    assert zz_kernel(rows, bandwidth=0.01).min() > kernel.min()


def test_the_fidelity_kernel_finds_two_crowds() -> None:
    rng = np.random.default_rng(1)
    rows: NDArray[np.float64] = np.concatenate(
        [rng.normal(-1.5, 0.2, size=(8, 2)), rng.normal(1.5, 0.2, size=(8, 2))]
    )
    labels = fidelity_clusters(rows, 2, bandwidth=0.2)
    assert len(set(labels[:8])) == len(set(labels[8:])) == 1 and labels[0] != labels[8]
