"""The circuits themselves, in cirq: QAOA, Grover, the ZZ feature map.

They must agree with the engine, which computes the same numbers without them. cirq costs seconds
and 200 MB to import, so it is imported inside functions, and only by the quantum pool.

Qubit q is ``cirq.LineQubit(q)``; it stands for vertex, bit or feature q.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum.engine.fidelity import REPETITIONS
from tasks.quantum.engine.problem import Floats, Problem
from tasks.quantum.engine.qaoa import Angles, checked

if TYPE_CHECKING:
    import cirq

KEY = "cut"
"""The key of a measurement."""


def qaoa_circuit(
    problem: Problem, gammas: Angles, betas: Angles, *, measured: bool = True
) -> cirq.Circuit:
    """H on every qubit, then for each layer ZZ on every edge and Rx(2β) on every qubit.

    Args:
        problem: the cut; its vertices are the qubits.
        gammas: p angles, in the engine's convention.
        betas: as many.
        measured: whether all qubits are measured at the end, under `KEY`.
    """
    import cirq

    gammas, betas = checked(gammas, betas)
    qubits = cirq.LineQubit.range(problem.n)
    rounds = list(matchings(problem))
    moments = [cirq.Moment(cirq.H.on_each(*qubits))]
    for gamma, beta in zip(gammas, betas, strict=True):
        for pairs in rounds:
            # diag(1, e^{−iγw}, e^{−iγw}, 1) is exp(−iγw(1−ZZ)/2), its global phase included.
            moments.append(
                cirq.Moment(
                    (cirq.ZZ ** (-gamma * problem.weights[a, b] / math.pi))(qubits[a], qubits[b])
                    for a, b in pairs
                )
            )
        moments.append(cirq.Moment(cirq.rx(2 * beta).on_each(*qubits)))
    if measured:
        moments.append(cirq.Moment(cirq.measure(*qubits, key=KEY)))
    return cirq.Circuit(moments)


def matchings(problem: Problem) -> Iterator[list[tuple[int, int]]]:
    """The edges in rounds in which no vertex stands twice: of a complete graph in n−1 or n of them.

    The terms commute, so their order is free and depth is all that it decides. Vertices that have
    the most edges left go first.
    """
    left = {(a, b) for a, b in zip(*np.nonzero(np.triu(problem.weights, 1)), strict=True)}
    if len(left) == problem.n * (problem.n - 1) // 2:
        yield from _tournament(problem.n)
        return
    while left:
        degree: dict[int, int] = {}
        for pair in left:
            for vertex in pair:
                degree[int(vertex)] = degree.get(int(vertex), 0) + 1
        busy: set[int] = set()
        chosen = []
        for a, b in sorted(left, key=lambda e: (-max(degree[e[0]], degree[e[1]]), e)):
            if a not in busy and b not in busy:
                chosen.append((int(a), int(b)))
                busy |= {a, b}
        left -= set(chosen)
        yield sorted(chosen)


def _tournament(n: int) -> Iterator[list[tuple[int, int]]]:
    """Everybody against everybody, by the circle method."""
    players = list(range(n + n % 2))
    for _ in range(len(players) - 1):
        pairs = zip(
            players[: len(players) // 2], reversed(players[len(players) // 2 :]), strict=True
        )
        games = [(min(a, b), max(a, b)) for a, b in pairs if max(a, b) < n]
        if games:
            yield sorted(games)
        players = [players[0], players[-1], *players[1:-1]]


def expectation(circuit: cirq.Circuit, problem: Problem) -> float:
    """⟨C⟩ of a circuit without measurements, by cirq's own simulator (complex128)."""
    import cirq

    qubits = cirq.LineQubit.range(problem.n)
    simulator = cirq.Simulator(dtype=np.complex128)
    state = simulator.simulate(circuit, qubit_order=qubits).final_state_vector
    return float(np.abs(state) ** 2 @ problem.cut(_bits_big_endian(problem.n)))


def sample(circuit: cirq.Circuit, sampler: cirq.Sampler, shots: int) -> NDArray[np.int8]:
    """Measure a circuit so many times: bits of shape (shots, n), column q of qubit q."""
    found: NDArray[np.int8] = (
        sampler.run(circuit, repetitions=shots).measurements[KEY].astype(np.int8)
    )
    return found


def grover_circuit(n: int, marked: Collection[int], iterations: int) -> cirq.Circuit:
    """Grover's circuit over n qubits, measured; bit q of a marked state is qubit q."""
    import cirq

    qubits = cirq.LineQubit.range(n)
    circuit = cirq.Circuit(cirq.H.on_each(*qubits))
    for _ in range(iterations):
        circuit.append(_oracle(n, marked))
        circuit.append([cirq.H.on_each(*qubits), cirq.X.on_each(*qubits)])
        circuit.append(_controlled_z(qubits))
        circuit.append([cirq.X.on_each(*qubits), cirq.H.on_each(*qubits)])
    circuit.append(cirq.measure(*qubits, key=KEY))
    return circuit


def grover_probability(n: int, marked: Collection[int], iterations: int) -> float:
    """Of measuring a marked state, from the final state of the circuit."""
    circuit = grover_circuit(n, marked, iterations)[:-1]
    state = _final(circuit, n)
    place = [_big_endian(n, index) for index in marked]
    return float(np.sum(np.abs(state[place]) ** 2))


def grover_search(
    values: Floats, threshold: float, iterations: int, rng: np.random.Generator
) -> int:
    """One search of Dürr and Høyer as a circuit: an `engine.grover.Search`, on cirq's simulator.

    Raises:
        ValueError: more than 1 024 values, ten qubits.
    """
    import cirq

    n = len(values).bit_length() - 1
    if n > 10:
        raise ValueError(f"{len(values)} values: expected at most 1 024, ten qubits")
    circuit = grover_circuit(n, np.flatnonzero(values < threshold).tolist(), iterations)
    simulator = cirq.Simulator(seed=int(rng.integers(2**31)), dtype=np.complex64)
    bits = sample(circuit, simulator, 1)[0]
    return int(bits @ (1 << np.arange(n)))


def zz_circuit(features: Floats) -> cirq.Circuit:
    """The circuit that prepares |Φ(x)⟩ of `engine.fidelity`, one qubit a feature."""
    import cirq

    n = len(features)
    qubits = cirq.LineQubit.range(n)
    circuit = cirq.Circuit()
    for _ in range(REPETITIONS):
        circuit.append(cirq.H.on_each(*qubits))
        for q in range(n):
            circuit.append(cirq.rz(-2 * features[q])(qubits[q]))
        for q in range(n):
            for r in range(q):
                angle = (math.pi - features[q]) * (math.pi - features[r])
                circuit.append((cirq.ZZ ** (-2 * angle / math.pi))(qubits[q], qubits[r]))
    return circuit


def fidelity(first: Floats, second: Floats) -> float:
    """|⟨Φ(x)|Φ(y)⟩|² from the two circuits."""
    states = [_final(zz_circuit(np.asarray(x)), len(x)) for x in (first, second)]
    return float(np.abs(np.vdot(states[0], states[1])) ** 2)


def _final(circuit: cirq.Circuit, n: int) -> NDArray[np.complex128]:
    import cirq

    simulator = cirq.Simulator(dtype=np.complex128)
    done = simulator.simulate(circuit, qubit_order=cirq.LineQubit.range(n))
    state: NDArray[np.complex128] = done.final_state_vector
    return state


def _oracle(n: int, marked: Collection[int]) -> Iterator[Any]:
    """−1 on the marked states: one controlled Z a state where they are few, else a diagonal."""
    import cirq

    qubits = cirq.LineQubit.range(n)
    if n > 1 and len(marked) <= 2:
        for index in sorted(marked):
            zeros = [qubits[q] for q in range(n) if not index >> q & 1]
            yield [cirq.X(q) for q in zeros]
            yield _controlled_z(qubits)
            yield [cirq.X(q) for q in zeros]
        return
    angles = np.zeros(1 << n)
    angles[[_big_endian(n, index) for index in marked]] = math.pi
    yield cirq.DiagonalGate(angles.tolist())(*qubits)


def _controlled_z(qubits: list[Any]) -> cirq.Operation:
    import cirq

    gate: cirq.Operation = cirq.Z(qubits[-1]).controlled_by(*qubits[:-1])
    return gate


def _big_endian(n: int, index: int) -> int:
    """Our bit q is qubit q; in cirq's state vector qubit 0 is the highest bit."""
    return int(f"{index:0{n}b}"[::-1], 2)


def _bits_big_endian(n: int) -> NDArray[np.int64]:
    return (np.arange(1 << n)[:, None] >> np.arange(n - 1, -1, -1)) & 1
