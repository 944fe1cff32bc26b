"""The figures of the literature come out; each test names paper and value."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx
import numpy as np
import pytest
from scipy.optimize import minimize

from tasks.quantum.engine import Qaoa, grover_success, optimize, problem_of, qaoa_expectation
from tasks.quantum.engine.angles import CUBIC, INFINITE, fixed
from tasks.quantum.engine.tree import cut_per_edge, gain_at_infinity


def per_edge(graph: nx.Graph[Any], p: int) -> float:
    best = optimize(Qaoa(problem_of(graph)), p, start="interp")
    return float(best.expectation / graph.number_of_edges())


def test_one_layer_on_a_cubic_graph_without_triangles_cuts_69_percent() -> None:
    """Farhi, Goldstone, Gutmann, arXiv:1411.4028, section V: 0.6924 at p = 1."""
    assert per_edge(nx.petersen_graph(), 1) == pytest.approx(0.692450, abs=5e-7)
    angle = qaoa_expectation(nx.heawood_graph(), [math.atan(1 / math.sqrt(2))], [math.pi / 8])
    assert angle / 21 == pytest.approx(0.5 + 1 / (3 * math.sqrt(3)), abs=1e-12)


def test_two_layers_on_the_heawood_graph_cut_75_percent() -> None:
    """The same paper and Wurtz and Love, arXiv:2010.11209: 0.7559 at p = 2 and girth above 5."""
    assert per_edge(nx.heawood_graph(), 2) == pytest.approx(0.755906, abs=5e-7)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("n", [8, 11])
def test_a_ring_longer_than_2p_is_cut_to_2p_plus_1_over_2p_plus_2(n: int, p: int) -> None:
    """Farhi, Goldstone, Gutmann, section IV; Mbeng, Fazio, Santoro, arXiv:1906.08948."""
    expected = (2 * p + 1) / (2 * p + 2)
    assert per_edge(nx.cycle_graph(n), p) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("p", "ratio"), [(1, 0.6924), (2, 0.7559), (3, 0.7923), (4, 0.8168)])
def test_fixed_angles_guarantee_their_ratio_on_cubic_graphs(p: int, ratio: float) -> None:
    """Wurtz and Lykov, arXiv:2107.00677, table I (their p = 3 is 0.7923)."""
    assert cut_per_edge(3, *CUBIC[p]) == pytest.approx(ratio, abs=1.2e-4)
    for seed in (1, 2):
        graph = nx.random_regular_graph(3, 14, seed=seed)
        problem = problem_of(graph)
        cut = qaoa_expectation(graph, *fixed(problem, p))
        assert cut / problem.diagonal.max() >= ratio - 1e-3


@pytest.mark.parametrize(
    ("p", "gain"), [(1, 0.3033), (2, 0.4075), (3, 0.4726), (4, 0.5157), (5, 0.5476), (6, 0.5721)]
)
def test_the_sherrington_kirkpatrick_model_gains_what_was_published(p: int, gain: float) -> None:
    """Farhi, Goldstone, Gutmann, Zhou, arXiv:1910.08187, table 1; Basso et al., arXiv:2110.14206."""
    assert gain_at_infinity(*INFINITE[p]) == pytest.approx(gain, abs=6e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_no_angles_gain_more_than_the_published_ones(p: int) -> None:
    start = np.concatenate(INFINITE[p]) + 0.03
    found = minimize(lambda x: -gain_at_infinity(x[:p], x[p:]), start, method="L-BFGS-B")
    assert -found.fun == pytest.approx(gain_at_infinity(*INFINITE[p]), abs=1e-6)


def test_large_degree_comes_near_the_limit_with_gamma_2_over_root_d() -> None:
    """Basso et al.: the cut of degree D is 1/2 + ν/√D, with γ of the cut = 2γ/√D."""
    gammas, betas = (np.array(each) for each in INFINITE[2])
    errors = []
    for degree in (16, 64, 256):
        cut = cut_per_edge(degree, 2 * gammas / math.sqrt(degree), betas)
        errors.append(abs((cut - 0.5) * math.sqrt(degree) - 0.4075))
    assert errors[-1] < 2e-3 and errors == sorted(errors, reverse=True)


def test_a_tree_says_what_a_simulated_graph_of_its_girth_does() -> None:
    gammas, betas = CUBIC[2]
    simulated = qaoa_expectation(nx.heawood_graph(), gammas, betas) / 21
    assert cut_per_edge(3, gammas, betas) == pytest.approx(simulated, abs=1e-12)
    ring = qaoa_expectation(nx.cycle_graph(12), [0.3, 0.5], [0.4, 0.2]) / 12
    assert cut_per_edge(2, [0.3, 0.5], [0.4, 0.2]) == pytest.approx(ring, abs=1e-12)


def test_grover_succeeds_by_the_sine() -> None:
    """Boyer, Brassard, Høyer, Tapp, arXiv:quant-ph/9605034: sin²((2k+1)θ), 1 at N/4 marked, k = 1."""
    assert grover_success(2, 1, 1) == pytest.approx(1.0)
    assert grover_success(10, 1, 25) == pytest.approx(0.999461, abs=1e-6)
    assert grover_success(3, [5], 2) == pytest.approx(0.9453125)
    assert grover_success(4, [], 3) == 0.0
    with pytest.raises(ValueError, match=r"none of 0 … 7"):
        grover_success(3, [8], 1)
