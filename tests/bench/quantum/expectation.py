"""CPU time per expectation and per optimization, ours beside the simulators that people use.

    python -m tests.bench.quantum.expectation

Interleaved: in each round everybody computes the same ⟨C⟩ once, in turn, so that a noisy machine is
noisy for all; CPU time of this process, so that neighbors do not count; medians and ranges over the
rounds. All must agree to 1e-5 before anything is measured. Those that are not installed are left out
by name (PennyLane: `pip install pennylane pennylane-lightning`). One thread each.
"""

# ruff: noqa: E402 — numpy reads the number of its threads when it is imported.
from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import networkx as nx
import numpy as np

from tasks.quantum import circuits
from tasks.quantum.engine import Problem, Qaoa, optimize, problem_from, problem_of
from tasks.quantum.engine.angles import fixed

Run = Callable[[], float]


def ours(problem: Problem, gammas: Any, betas: Any) -> Run:
    """The engine, with its diagonal ready as an optimization has it."""
    qaoa = Qaoa(problem)
    return lambda: qaoa.expectation(gammas, betas)


def cirq_simulator(problem: Problem, gammas: Any, betas: Any) -> Run:
    """cirq.Simulator (complex64), and the mean of the diagonal."""
    import cirq

    return _amplitudes(cirq.Simulator(), problem, gammas, betas)


def qsim(problem: Problem, gammas: Any, betas: Any) -> Run:
    """qsim on one thread."""
    import qsimcirq

    options = qsimcirq.QSimOptions(cpu_threads=1, max_fused_gate_size=4)
    return _amplitudes(qsimcirq.QSimSimulator(options), problem, gammas, betas)


def _amplitudes(simulator: Any, problem: Problem, gammas: Any, betas: Any) -> Run:
    import cirq

    circuit = circuits.qaoa_circuit(problem, gammas, betas, measured=False)
    qubits = cirq.LineQubit.range(problem.n)
    # Given to it for nothing: the mean is then one product.
    half = problem.diagonal
    whole = np.concatenate([half, half[::-1]])
    order = np.arange(1 << problem.n).reshape((2,) * problem.n).transpose().reshape(-1)
    values = whole[order]

    def run() -> float:
        state = simulator.simulate(circuit, qubit_order=qubits).final_state_vector
        return float(np.vdot(state, state * values).real)

    return run


def pennylane(problem: Problem, gammas: Any, betas: Any) -> Run:
    """PennyLane's lightning.qubit, ⟨C⟩ as a Hamiltonian of ZZ terms."""
    import pennylane as qml

    device = qml.device("lightning.qubit", wires=problem.n)
    edges = [
        (int(a), int(b)) for a, b in zip(*np.nonzero(np.triu(problem.weights, 1)), strict=True)
    ]
    terms = [qml.PauliZ(a) @ qml.PauliZ(b) for a, b in edges]
    cost = qml.Hamiltonian([-problem.weights[e] / 2 for e in edges], terms)
    total = problem.weights.sum() / 4

    def circuit() -> Any:
        for q in range(problem.n):
            qml.Hadamard(q)
        for gamma, beta in zip(gammas, betas, strict=True):
            for a, b in edges:
                qml.IsingZZ(-gamma * problem.weights[a, b], wires=[a, b])
            for q in range(problem.n):
                qml.RX(2 * beta, wires=q)
        return qml.expval(cost)

    node = qml.QNode(circuit, device)
    return lambda: float(node()) + total


def aer(problem: Problem, gammas: Any, betas: Any) -> Run:
    """qiskit-aer's state vector on one thread, and the mean of the diagonal."""
    from qiskit import QuantumCircuit
    from qiskit_aer import AerSimulator

    circuit = QuantumCircuit(problem.n)
    circuit.h(range(problem.n))
    for gamma, beta in zip(gammas, betas, strict=True):
        for a, b in zip(*np.nonzero(np.triu(problem.weights, 1)), strict=True):
            circuit.rzz(-gamma * problem.weights[a, b], int(a), int(b))
        circuit.rx(2 * beta, range(problem.n))
    circuit.save_statevector()
    simulator = AerSimulator(method="statevector", max_parallel_threads=1)
    half = problem.diagonal
    whole = np.concatenate([half, half[::-1]])

    def run() -> float:
        state = np.asarray(simulator.run(circuit, shots=1).result().get_statevector(circuit))
        return float(np.vdot(state, state * whole).real)

    return run


CONTESTANTS: dict[str, tuple[str, Callable[[Problem, Any, Any], Run]]] = {
    "ours": ("numba", ours),
    "cirq.Simulator": ("cirq", cirq_simulator),
    "qsim": ("qsimcirq", qsim),
    "PennyLane lightning": ("pennylane_lightning", pennylane),
    "Aer": ("qiskit_aer", aer),
}


def measure(problem: Problem, p: int, rounds: int) -> dict[str, Any]:
    """CPU milliseconds of one expectation, by contestant."""
    gammas, betas = fixed(problem, p)
    runs = {
        name: make(problem, gammas, betas)
        for name, (module, make) in CONTESTANTS.items()
        if find_spec(module) is not None
    }
    values = {name: run() for name, run in runs.items()}  # and everything is warm
    expected = values["ours"]
    for name, value in values.items():
        assert abs(value - expected) <= 1e-5 * abs(expected), (name, value, expected)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            run()
            spent[name].append((time.process_time() - began) * 1e3)
    middle = {name: statistics.median(each) for name, each in spent.items()}
    best = min((value, name) for name, value in middle.items() if name != "ours")
    return {
        "cpu_ms": {n: [round(x, 2) for x in (middle[n], min(s), max(s))] for n, s in spent.items()},
        "best_other": best[1],
        "times_faster": round(best[0] / middle["ours"], 1),
        "missing": sorted(set(CONTESTANTS) - set(runs)),
    }


def climb(n: int, p: int, rounds: int) -> dict[str, Any]:
    """CPU seconds of one optimization of a dense graph, by the adjoint gradient and by COBYLA."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    weights = rng.random((n, n))
    problem = problem_from(weights + weights.T)
    qaoa = Qaoa(problem)
    start = np.concatenate(fixed(problem, p))
    qaoa.gradient(start[:p], start[p:])
    ours_, theirs, evaluations = [], [], 0
    for _ in range(rounds):
        began = time.process_time()
        found = optimize(qaoa, p)
        ours_.append(time.process_time() - began)
        evaluations = found.evaluations
        began = time.process_time()
        other = minimize(
            lambda x: -qaoa.expectation(x[:p], x[p:]),
            start,
            method="COBYLA",
            options={"maxiter": 2000},
        )
        theirs.append(time.process_time() - began)
    return {
        "cpu_s": round(statistics.median(ours_), 3),
        "evaluations": evaluations,
        "reached": round(found.expectation / problem.diagonal.max(), 5),
        "cobyla_cpu_s": round(statistics.median(theirs), 3),
        "cobyla_evaluations": int(other.nfev),
        "cobyla_reached": round(-other.fun / problem.diagonal.max(), 5),
    }


def main() -> None:
    """Print everything as JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--qubits", type=int, nargs="*", default=[16, 20])
    options.add_argument("--layers", type=int, default=4)
    given = options.parse_args()
    found: dict[str, Any] = {}
    for n in given.qubits:
        graph = nx.random_regular_graph(3, n, seed=1)
        rng = np.random.default_rng(1)
        for _, _, data in graph.edges(data=True):
            data["weight"] = float(rng.uniform(0.5, 1.5))
        found[f"3-regular, n={n}, p={given.layers}"] = measure(
            problem_of(graph), given.layers, given.rounds
        )
    found["optimization, dense, n=16, p=3"] = climb(16, 3, given.rounds)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
