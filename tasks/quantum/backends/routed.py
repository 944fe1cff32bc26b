"""QAOA on a lattice of qubits: our layout, then the device's own gates."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.quantum.circuits import KEY
from tasks.quantum.engine.problem import Problem
from tasks.quantum.engine.qaoa import Angles, checked
from tasks.quantum.layout import Layout, route

if TYPE_CHECKING:
    import cirq
    import networkx as nx


def terms_of(problem: Problem) -> list[tuple[int, int]]:
    """The pairs that need a ZZ."""
    return [(int(a), int(b)) for a, b in zip(*np.nonzero(np.triu(problem.weights, 1)), strict=True)]


def layout_of(problem: Problem, coupling: nx.Graph[int], *, seed: int = 0) -> Layout:
    """Where the vertices sit, and who swaps when; for other angles of the same problem it is known."""
    return _laid_out(problem.n, tuple(terms_of(problem)), tuple(coupling.edges), seed)


@lru_cache(maxsize=64)
def _laid_out(
    n: int, terms: tuple[tuple[int, int], ...], edges: tuple[tuple[int, int], ...], seed: int
) -> Layout:
    import networkx as nx

    return route(n, list(terms), nx.Graph(edges), seed=seed)


def routed_circuit(
    problem: Problem, gammas: Angles, betas: Angles, layout: Layout, qubits: list[Any]
) -> cirq.Circuit:
    """The circuit on physical qubits, in ZZ and SWAP still; measured in the order of the vertices."""
    import cirq

    gammas, betas = checked(gammas, betas)
    place = list(layout.begin)
    circuit = cirq.Circuit(cirq.H.on_each(*(qubits[at] for at in place)))
    for gamma, beta, steps in zip(gammas, betas, layout.layers(len(gammas)), strict=True):
        for step in steps:
            a, b = (qubits[at] for at in step.places)
            if step.kind != "swap":
                weight = problem.weights[step.pair]
                circuit.append((cirq.ZZ ** (-gamma * weight / math.pi))(a, b))
            if step.kind != "zz":
                circuit.append(cirq.SWAP(a, b))
                for vertex, to in zip(step.pair, reversed(step.places), strict=True):
                    if vertex >= 0:
                        place[vertex] = to
        circuit.append(cirq.rx(2 * beta).on_each(*(qubits[at] for at in place)))
    circuit.append(cirq.measure(*(qubits[at] for at in place), key=KEY))
    return circuit
