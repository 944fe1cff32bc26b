"""The layout does what the circuit says, on places that touch, in few gates."""

from __future__ import annotations

from importlib.util import find_spec

import networkx as nx
import numpy as np
import pytest

from tasks.errors import Permanent
from tasks.quantum.engine import problem_from, qaoa_expectation
from tasks.quantum.layout import COST, Layout, depth_of, route

GRID: nx.Graph[int] = nx.convert_node_labels_to_integers(nx.grid_2d_graph(4, 5))


def replayed(layout: Layout, p: int, coupling: nx.Graph[int]) -> list[list[tuple[int, int]]]:
    """The terms of each layer, with every claim of the layout checked on the way."""
    place = list(layout.begin)
    assert len(set(place)) == len(place)
    layers = []
    for steps in layout.layers(p):
        done = []
        for step in steps:
            assert coupling.has_edge(*step.places)
            at = {spot: v for v, spot in enumerate(place)}
            assert tuple(at.get(spot, -1) for spot in step.places) == step.pair or (
                step.kind == "zz" and {at[s] for s in step.places} == set(step.pair)
            )
            if step.kind != "swap":
                done.append((min(step.pair), max(step.pair)))
            if step.kind != "zz":
                for v, to in zip(step.pair, reversed(step.places), strict=True):
                    if v >= 0:
                        place[v] = to
        layers.append(done)
    assert tuple(place) == layout.ends_at(p)
    return layers


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "kind"), [(6, "complete"), (8, "3-regular"), (12, "3-regular")])
def test_every_term_of_every_layer_is_done_once(n: int, kind: str, seed: int) -> None:
    graph = nx.complete_graph(n) if kind == "complete" else nx.random_regular_graph(3, n, seed=seed)
    wanted = sorted((min(e), max(e)) for e in graph.edges)
    layout = route(n, graph.edges, GRID, seed=seed, tries=5)
    for done in replayed(layout, 3, GRID):
        assert sorted(done) == wanted
    assert layout.gates >= COST["zz"] * len(wanted)
    assert 0 < depth_of(layout.steps) <= layout.gates


def test_a_graph_that_is_the_lattice_needs_no_swap() -> None:
    line = nx.path_graph(8)
    layout = route(8, line.edges, GRID, seed=0, tries=40)
    assert layout.gates == COST["zz"] * 7


def test_a_device_that_is_too_small_is_refused() -> None:
    with pytest.raises(Permanent, match="no 5 connected qubits"):
        route(5, [(0, 1)], nx.path_graph(4), seed=0)


def test_the_routed_circuit_is_the_same_circuit() -> None:
    cirq = pytest.importorskip("cirq", reason="needs the extra quantum")
    from tasks.quantum.backends.routed import layout_of, routed_circuit

    rng = np.random.default_rng(0)
    weights = rng.normal(size=(5, 5))
    problem = problem_from(weights + weights.T)
    gammas, betas = rng.normal(size=3), rng.normal(size=3)
    qubits = cirq.LineQubit.range(20)
    layout = layout_of(problem, GRID)
    circuit = routed_circuit(problem, gammas, betas, layout, list(qubits))
    measured = circuit[-1].operations[0].qubits
    state = cirq.Simulator(dtype=np.complex128).simulate(
        circuit[:-1], qubit_order=[*measured, *(set(circuit.all_qubits()) - set(measured))]
    )
    chances = np.abs(state.final_state_vector.reshape(32, -1)) ** 2
    bits = (np.arange(32)[:, None] >> np.arange(4, -1, -1)) & 1
    graph = nx.from_numpy_array(problem.weights)
    expected = qaoa_expectation(graph, gammas, betas)
    assert float(chances.sum(axis=1) @ problem.cut(bits)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.skipif(find_spec("cirq_google") is None, reason="needs the extra google")
@pytest.mark.skipif(find_spec("qiskit") is None, reason="needs the extra ibm")
@pytest.mark.parametrize(("device", "n"), [("google-rainbow", 8), ("google-willow", 10)])
def test_our_layout_takes_no_more_gates_than_a_tenth_above_qiskits_best_level(
    device: str, n: int
) -> None:
    from tasks.quantum.backends import open_backend
    from tasks.quantum.comparison import compare

    row = compare(device, n, "3-regular", 1, 1)
    assert row["after"] <= 1.10 * row["qiskit level 3"], row
    assert row["after"] < row["before"]
    # What is counted is what the device gets.
    graph = nx.random_regular_graph(3, n, seed=1)
    problem = problem_from(nx.to_numpy_array(graph, nodelist=range(n)))
    compiled = open_backend(device).compile(problem, [0.3], [0.4])
    assert compiled.two_qubit <= 1.10 * row["qiskit level 3"]
