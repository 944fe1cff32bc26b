"""Rigetti: circuits as Quil, by hand (cirq-rigetti ended before cirq 1.7); pyquil runs them.

On hardware quilc, which has to run beside us, lays the program out and translates it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum import circuits
from tasks.quantum.backends.answers import measured
from tasks.quantum.backends.contract import (
    BackendSpec,
    BackendUnavailable,
    Compiled,
    JobLost,
    fits,
    within,
)  # fmt: skip
from tasks.quantum.engine.problem import Problem
from tasks.quantum.engine.qaoa import Angles, checked


class Local:
    """Quil on pyquil's own simulator in numpy; no quilc and no qvm are needed."""

    def __init__(self, spec: BackendSpec, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self._environment = environment

    def compile(self, problem: Problem, gammas: Angles, betas: Angles) -> Compiled:
        """As Quil text: a ZZ is a rotation between two CNOT."""
        fits(self.spec, problem)
        gammas, betas = checked(gammas, betas)
        text, two = quil(problem, gammas, betas)
        return Compiled(text, two, text.count("\n"), problem.n)

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Simulate once, and draw."""
        from pyquil import Program
        from pyquil.simulation import NumpyWavefunctionSimulator

        gates = [g for g in compiled.circuit.splitlines() if g[:7] not in ("DECLARE", "MEASURE")]
        with warnings.catch_warnings():
            # To be replaced in pyquil 5, whose own simulators are private until then.
            warnings.filterwarnings("ignore", message=".*removed in pyQuil v5")
            simulator = NumpyWavefunctionSimulator(
                compiled.n, rs=np.random.RandomState(seed % 2**31)
            )
            simulator.do_program(Program("\n".join(gates)))
            bits = simulator.sample_bitstrings(shots)
        return measured(bits, compiled.n)


class Rigetti(Local):
    """The computer that `RIGETTI_QPU` names, through QCS."""

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Compile with quilc, send a job, and wait for it."""
        from pyquil import Program, get_qc

        name = self._environment["RIGETTI_QPU"]
        try:
            computer = within(120, "QCS", lambda: get_qc(name))
        except JobLost:
            raise
        except Exception as error:
            raise BackendUnavailable(
                f"QCS does not give us {name}: {type(error).__name__}: {str(error)[:200]}"
            ) from error

        def run() -> Any:
            program = Program(compiled.circuit).wrap_in_numshots_loop(shots)
            return computer.run(computer.compile(program)).get_register_map()["ro"]

        try:
            return measured(within(wait, "Rigetti", run), compiled.n)
        except JobLost:
            raise
        except Exception as error:
            raise JobLost(
                f"Rigetti gave no result: {type(error).__name__}: {str(error)[:200]}"
            ) from error


def quil(problem: Problem, gammas: Any, betas: Any) -> tuple[str, int]:
    """The program, and its two-qubit gates."""
    lines = [f"DECLARE ro BIT[{problem.n}]", *(f"H {q}" for q in range(problem.n))]
    two = 0
    for gamma, beta in zip(gammas, betas, strict=True):
        for pairs in circuits.matchings(problem):
            for a, b in pairs:
                # exp(+iγwZZ/2), and RZ(θ) is exp(−iθZ/2).
                lines += [
                    f"CNOT {a} {b}",
                    f"RZ({float(-gamma * problem.weights[a, b])!r}) {b}",
                    f"CNOT {a} {b}",
                ]
                two += 2
        lines += [f"RX({float(2 * beta)!r}) {q}" for q in range(problem.n)]
    lines += [f"MEASURE {q} ro[{q}]" for q in range(problem.n)]
    return "\n".join(lines) + "\n", two
