"""Pasqal: neutral atoms, one gate at a time, CZ within reach.

The vendor's client neither checks certificates nor has a time limit; what asks here keeps its
protocol (POST /simulate/no-noise/submit, GET /get-result/TASK), and does both.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum import circuits
from tasks.quantum.backends.answers import MALFORMED, measured, refusal
from tasks.quantum.backends.contract import BackendSpec, Compiled, JobLost, fits
from tasks.quantum.backends.simulators import counted
from tasks.quantum.engine.problem import Problem
from tasks.quantum.engine.qaoa import Angles

ASKS_EVERY = 1.0
ANSWERS_WITHIN = 30.0


class Local:
    """Pasqal's circuits, valid on its device, on cirq's simulator."""

    def __init__(self, spec: BackendSpec, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self._environment = environment

    def compile(self, problem: Problem, gammas: Angles, betas: Angles) -> Compiled:
        """In CZ and single-qubit gates, one a moment, on named atoms."""
        import cirq
        import cirq_pasqal

        fits(self.spec, problem)
        circuit = circuits.qaoa_circuit(problem, gammas, betas)
        gateset = cirq_pasqal.PasqalGateset(include_additional_controlled_ops=False)
        native = cirq.optimize_for_target_gateset(circuit, gateset=gateset)
        names = [cirq.NamedQubit(f"q{k}") for k in range(problem.n)]
        line = cirq.LineQubit.range(problem.n)
        native = native.transform_qubits(dict(zip(line, names, strict=True)))
        cirq_pasqal.PasqalDevice(qubits=names).validate_circuit(native)
        return counted(native, problem.n)

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Simulate once, and draw."""
        import cirq

        return circuits.sample(compiled.circuit, cirq.Simulator(seed=seed), shots)


class Pasqal(Local):
    """Pasqal's API at `PASQAL_URL`."""

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Send a task and wait for it."""
        import cirq

        until = time.monotonic() + wait
        task = self._ask(
            "POST", "simulate/no-noise/submit", data=cirq.to_json(compiled.circuit),
            headers={"Repetitions": str(shots)},
        )  # fmt: skip
        while time.monotonic() < until:
            if text := self._ask("GET", f"get-result/{task}"):
                try:
                    result = cirq.read_json(json_text=text)
                    return measured(result.measurements[circuits.KEY], compiled.n)
                except MALFORMED as error:
                    raise refusal("Pasqal", error, None) from error
            time.sleep(min(ASKS_EVERY, max(0.0, until - time.monotonic())))
        raise JobLost(f"Pasqal gave no result of task {task} in time: it may still run there")

    def _ask(self, method: str, way: str, **more: Any) -> str:
        import requests

        host = self._environment["PASQAL_URL"].rstrip("/")
        headers = {"Authorization": self._environment["PASQAL_TOKEN"], **more.pop("headers", {})}
        try:
            answer = requests.request(
                method, f"{host}/{way}", headers=headers, timeout=ANSWERS_WITHIN, **more
            )
            answer.raise_for_status()
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else None
            raise refusal("Pasqal", error, status) from error
        return answer.text
