"""Rigetti: circuits as Quil, by hand (cirq-rigetti ended before cirq 1.7); their SDK runs them.

The same Quil goes three ways: read here and simulated by cirq, to a QVM over HTTP, and to hardware,
where quilc, which has to run beside us, lays it out and translates it. The SDK is the one in Rust
under pyquil (`qcs-sdk-python`): pyquil itself brings jax.

Source: Smith, Curtis, Zeng, "A Practical Quantum Instruction Set Architecture", arXiv:1608.03355.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum import circuits
from tasks.quantum.backends.answers import answered, measured
from tasks.quantum.backends.contract import BackendSpec, Compiled, fits
from tasks.quantum.engine.problem import Problem
from tasks.quantum.engine.qaoa import Angles, checked

if TYPE_CHECKING:
    import cirq

QUILC = "tcp://127.0.0.1:5555"


class Local:
    """Quil, read again and simulated by cirq: what the text says, not what was meant by it."""

    def __init__(self, spec: BackendSpec, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self._environment = environment

    def compile(self, problem: Problem, gammas: Angles, betas: Angles) -> Compiled:
        """As Quil text: a ZZ is a rotation between two CNOT."""
        fits(self.spec, problem)
        gammas, betas = checked(gammas, betas)
        text, two = quil(problem, gammas, betas)
        return Compiled(text, two, len(read(text)), problem.n)

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Simulate once, and draw."""
        import cirq

        return circuits.sample(read(compiled.circuit), cirq.Simulator(seed=seed), shots)


class Qvm(Local):
    """Rigetti's simulator (`qvm -S`) at `QVM_URL`."""

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Send the program and wait for its bits; the SDK hands no seed on."""
        from qcs_sdk import Executable
        from qcs_sdk.qvm import QVMClient

        client = QVMClient.new_http(self._environment["QVM_URL"])
        program = Executable(compiled.circuit, registers=["ro"], shots=shots)
        return answered(
            "the QVM", wait, lambda: _bits(program.execute_on_qvm(client), compiled.n)
        )  # fmt: skip


class Rigetti(Local):
    """The computer that `RIGETTI_QPU` names, through QCS; quilc is at `QUILC_URL`."""

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Compile with quilc, send a job, and wait for it."""
        from qcs_sdk import Executable
        from qcs_sdk.compiler.quilc import QuilcClient

        def run() -> NDArray[np.int8]:
            quilc = QuilcClient.new_rpcq(self._environment.get("QUILC_URL") or QUILC)
            program = Executable(
                compiled.circuit, registers=["ro"], shots=shots, quilc_client=quilc
            )
            return _bits(program.execute_on_qpu(self._environment["RIGETTI_QPU"]), compiled.n)

        return answered("Rigetti", wait, run)


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


def read(program: str) -> cirq.Circuit:
    """The circuit of a Quil program of H, CNOT, RX, RZ and MEASURE into one register, by its bits.

    Raises:
        ValueError: it says something else; names the line.
    """
    import cirq

    turns = {"RX": cirq.rx, "RZ": cirq.rz}
    circuit, bits = cirq.Circuit(), dict[int, cirq.Qid]()
    for line in program.splitlines():
        word, *rest = line.split()
        name, _, angle = word.partition("(")
        if name == "DECLARE":
            continue
        if name == "MEASURE":
            bits[int(rest[1].removeprefix("ro[").rstrip("]"))] = cirq.LineQubit(int(rest[0]))
            continue
        qubits = [cirq.LineQubit(int(q)) for q in rest]
        if name in turns:
            circuit.append(turns[name](float(angle.rstrip(")")))(*qubits))
        elif name in ("H", "CNOT"):
            circuit.append((cirq.H if name == "H" else cirq.CNOT)(*qubits))
        else:
            raise ValueError(f"{line!r} is no Quil of ours: expected H, CNOT, RX, RZ or MEASURE")
    circuit.append(cirq.measure(*(bits[at] for at in sorted(bits)), key=circuits.KEY))
    return circuit


def _bits(data: Any, n: int) -> NDArray[np.int8]:
    found = data.result_data.to_register_map().get_register_matrix("ro")
    return measured(found.to_ndarray(), n)
