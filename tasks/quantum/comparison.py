"""Our layout beside two others: the terms as they come, routed by cirq; and qiskit at level 3."""

from __future__ import annotations

import statistics
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, cast

from tasks.errors import Permanent
from tasks.quantum.backends import open_backend
from tasks.quantum.layout import depth_of, route

if TYPE_CHECKING:
    import networkx as nx

TABLE: Final = tuple(
    (device, n, kind)
    for device, sizes in (("google-rainbow", (8, 12)), ("google-willow", (10, 14)))
    for n in sizes
    for kind in ("3-regular", "complete")
)
"""Devices, vertices, graphs: the first of each device is the one that was published."""
QISKIT_SEEDS: Final = 5
ANGLES: Final = (0.3, 0.5)


def compare(device: str, n: int, kind: str, layers: int, seed: int) -> dict[str, Any]:
    """One row: two-qubit gates and two-qubit depth, before, after, and qiskit's; and the gap.

    The gap is ours against qiskit's two-qubit count: negative is fewer than qiskit. Both count
    gates of one kind (CZ or any of the same cost), on the same lattice and graph.
    """
    import networkx as nx

    backend = open_backend(device)
    coupling: nx.Graph[int] | None = getattr(backend, "coupling", None)
    if coupling is None:
        raise Permanent(
            f"{device} has no lattice to lay a circuit on: expected google-… or ibm-fake"
        )
    if kind == "complete":
        graph: nx.Graph[int] = nx.complete_graph(n)
    else:
        if n % 2 or n < 4:
            raise Permanent(
                f"no 3-regular graph has {n} vertices: expected an even number from 4 on"
            )
        graph = nx.random_regular_graph(3, n, seed=seed)
    found = route(n, graph.edges, coupling, seed=seed)
    steps = [step for layer in found.layers(layers) for step in layer]
    before, before_depth = _as_it_comes(n, graph, coupling, layers)
    theirs = _qiskit(n, graph, coupling, layers) if find_spec("qiskit") is not None else None
    ours = found.gates * layers
    return {
        "device": device,
        "qubits": n,
        "graph": kind,
        "layers": layers,
        "before": before,
        "after": ours,
        "qiskit level 3": None if theirs is None else theirs[0],
        "gap": None if theirs is None else f"{ours / theirs[0] - 1:+.0%}",
        "depth before": before_depth,
        "depth after": depth_of(steps),
        "qiskit depth": None if theirs is None else theirs[1],
    }


def _as_it_comes(
    n: int, graph: nx.Graph[int], coupling: nx.Graph[int], layers: int
) -> tuple[int, int]:
    """Edges in the order of the graph, cirq's RouteCQC, then CZ."""
    import cirq
    import networkx as nx

    qubits = cirq.LineQubit.range(n)
    circuit = cirq.Circuit(cirq.H.on_each(*qubits))
    for _ in range(layers):
        circuit.append((cirq.ZZ ** ANGLES[0])(qubits[a], qubits[b]) for a, b in graph.edges)
        circuit.append(cirq.rx(ANGLES[1]).on_each(*qubits))
    named = nx.relabel_nodes(
        coupling, {place: cirq.NamedQubit(f"{place:04}") for place in coupling}
    )
    routed = cirq.RouteCQC(named)(circuit)
    native = cirq.optimize_for_target_gateset(routed, gateset=cirq.CZTargetGateset())
    two = [op for op in native.all_operations() if len(op.qubits) == 2]
    return len(two), len(cirq.Circuit(two))


def _qiskit(n: int, graph: nx.Graph[int], coupling: nx.Graph[int], layers: int) -> tuple[int, int]:
    """The median of some seeds of qiskit's own transpiler: a column of the table, and no part of ours."""
    from qiskit import QuantumCircuit, transpile
    from qiskit.transpiler import CouplingMap

    circuit = QuantumCircuit(n)
    circuit.h(range(n))
    for _ in range(layers):
        for a, b in graph.edges:
            circuit.rzz(ANGLES[0], a, b)
        circuit.rx(ANGLES[1], range(n))
    lattice = CouplingMap([pair for a, b in coupling.edges for pair in ((a, b), (b, a))])
    found = []
    for seed in range(QISKIT_SEEDS):
        made = transpile(
            circuit, coupling_map=lattice, basis_gates=["cz", "rz", "sx", "x"],
            optimization_level=3, seed_transpiler=seed,
        )  # fmt: skip
        depth = made.depth(lambda each: len(each.qubits) == 2)
        found.append((made.count_ops().get("cz", 0), depth))
    middle = statistics.median_low(count for count, _ in found)
    return cast("tuple[int, int]", min(each for each in found if each[0] == middle))
