"""The circuits in cirq and the engine that needs none agree."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest

from tasks.quantum import circuits
from tasks.quantum.engine import (
    grover_success,
    minimum_search,
    problem_from,
    problem_of,
    qaoa_expectation,
    zz_kernel,
)  # fmt: skip
from tasks.quantum.engine.grover import best_iterations

cirq = pytest.importorskip("cirq", reason="needs the extra quantum")


@pytest.mark.parametrize("n", [2, 5, 9, 12])
def test_cirq_says_what_the_engine_says(n: int) -> None:
    rng = np.random.default_rng(n)
    graph = nx.gnp_random_graph(n, 0.7, seed=n)
    graph.add_edge(0, 1)
    for _, _, data in graph.edges(data=True):
        data["weight"] = float(rng.normal())
    gammas, betas = rng.normal(size=3), rng.normal(size=3)
    problem = problem_of(graph)
    circuit = circuits.qaoa_circuit(problem, gammas, betas, measured=False)
    expected = qaoa_expectation(graph, gammas, betas)
    assert circuits.expectation(circuit, problem) == pytest.approx(expected, abs=1e-6)


def test_shots_are_cuts_of_their_own_vertices() -> None:
    graph = nx.path_graph(4)
    graph[0][1]["weight"] = 5.0
    problem = problem_of(graph)
    circuit = circuits.qaoa_circuit(problem, [0.3], [0.4])
    bits = circuits.sample(circuit, cirq.Simulator(seed=1), 4000)
    assert bits.shape == (4000, 4)
    expected = qaoa_expectation(graph, [0.3], [0.4])
    assert problem.cut(bits).mean() == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(("n", "rounds"), [(6, 5), (7, 7), (16, 15)])
def test_a_complete_graph_is_as_shallow_as_a_tournament(n: int, rounds: int) -> None:
    problem = problem_from(np.ones((n, n)) - np.eye(n))
    found = list(circuits.matchings(problem))
    assert len(found) == rounds
    played = [pair for games in found for pair in games]
    assert sorted(played) == sorted({(a, b) for a in range(n) for b in range(a + 1, n)})
    assert all(len({v for pair in games for v in pair}) == 2 * len(games) for games in found)


@pytest.mark.parametrize(
    ("n", "marked", "k"),
    [(2, [3], 1), (3, [5], 2), (4, [1, 6], 1), (5, [0, 7, 9, 30], 2), (1, [1], 1)],
)
def test_grovers_circuit_succeeds_by_the_formula(n: int, marked: list[int], k: int) -> None:
    assert circuits.grover_probability(n, marked, k) == pytest.approx(
        grover_success(n, marked, k), abs=1e-9
    )


def test_ten_qubits_are_searched_with_a_real_circuit() -> None:
    k = best_iterations(10, 1)
    assert k == 25
    assert circuits.grover_probability(10, [613], k) == pytest.approx(
        grover_success(10, 1, 25), abs=1e-9
    )


def test_durr_hoyer_runs_on_circuits() -> None:
    values = np.random.default_rng(3).normal(size=32)
    rng = np.random.default_rng(4)
    runs = [minimum_search(values, rng, circuits.grover_search) for _ in range(4)]
    assert sum(run.index == int(values.argmin()) for run in runs) >= 2
    assert all(run.queries < 2 * run.expected for run in runs)
    with pytest.raises(ValueError, match="at most 1 024"):
        circuits.grover_search(np.zeros(2048), 0.0, 1, rng)


def test_the_feature_map_in_cirq_has_the_kernels_fidelities() -> None:
    rows = np.random.default_rng(0).uniform(0, math.pi, size=(4, 3))
    kernel = zz_kernel(rows, rows)
    for i in range(4):
        for j in range(i):
            assert circuits.fidelity(rows[i], rows[j]) == pytest.approx(kernel[i, j], abs=1e-6)
