"""Ideal simulators: the engine's own state, cirq, qsim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum import circuits
from tasks.quantum.backends.contract import BackendSpec, Compiled, fits
from tasks.quantum.engine.problem import Problem
from tasks.quantum.engine.qaoa import Angles, Qaoa, checked


@dataclass(frozen=True)
class _Angles:
    problem: Problem
    gammas: Any
    betas: Any


class Engine:
    """Samples from the engine's own state: the same probabilities, and no circuit at all."""

    def __init__(self, spec: BackendSpec, environment: Mapping[str, str]) -> None:
        self.spec = spec

    def compile(self, problem: Problem, gammas: Angles, betas: Angles) -> Compiled:
        """The angles, kept; counts are those of the circuit with ZZ as one gate."""
        fits(self.spec, problem)
        gammas, betas = checked(gammas, betas)
        rounds = list(circuits.matchings(problem))
        return Compiled(
            _Angles(problem, gammas, betas),
            two_qubit=len(gammas) * sum(len(pairs) for pairs in rounds),
            depth=1 + len(gammas) * (len(rounds) + 1),
            n=problem.n,
        )

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Draw from the state's probabilities."""
        kept: _Angles = compiled.circuit
        rng = np.random.default_rng(seed)
        bits = kept.problem.bits(Qaoa(kept.problem).sample(kept.gammas, kept.betas, shots, rng))
        # The half state knows a partition and not its mirror; a measurement gives either.
        mirrored: NDArray[np.int8] = bits ^ rng.integers(0, 2, size=(shots, 1), dtype=np.int8)
        return mirrored


class Cirq:
    """cirq.Simulator (complex64)."""

    def __init__(self, spec: BackendSpec, environment: Mapping[str, str]) -> None:
        self.spec = spec

    def compile(self, problem: Problem, gammas: Angles, betas: Angles) -> Compiled:
        """The circuit as it is: every qubit touches every other."""
        fits(self.spec, problem)
        circuit = circuits.qaoa_circuit(problem, gammas, betas)
        return counted(circuit, problem.n)

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Simulate once, and draw."""
        return circuits.sample(compiled.circuit, self.simulator(seed), shots)

    def simulator(self, seed: int) -> Any:
        """A simulator of cirq's interface."""
        import cirq

        return cirq.Simulator(seed=seed)


class Qsim(Cirq):
    """qsimcirq.QSimSimulator, on one thread: the pool's width is its share of the machine."""

    def simulator(self, seed: int) -> Any:
        """A simulator of cirq's interface."""
        import qsimcirq

        options = qsimcirq.QSimOptions(cpu_threads=1, max_fused_gate_size=4)
        # qsim takes 32 bits.
        return qsimcirq.QSimSimulator(options, seed=seed % 2**31)


def counted(circuit: Any, n: int) -> Compiled:
    """A cirq circuit with its figures."""
    import cirq

    two = sum(
        len(op.qubits) == 2 and not cirq.is_measurement(op) for op in circuit.all_operations()
    )
    return Compiled(circuit, two, len(circuit), n)
