"""AQT: trapped ions, Mølmer–Sørensen gates, sent to its Arnica API.

The vendor's client asks for ever and without a time limit; what asks here keeps its protocol
(POST /submit/WORKSPACE/RESOURCE, GET /result/JOB) and stops.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum import circuits
from tasks.quantum.backends.answers import measured, refusal
from tasks.quantum.backends.contract import BackendSpec, Compiled, JobLost, fits
from tasks.quantum.backends.simulators import counted
from tasks.quantum.engine.problem import Problem
from tasks.quantum.engine.qaoa import Angles

HOST = "https://arnica.aqt.eu/api/v1/"
ASKS_EVERY = 1.0
ANSWERS_WITHIN = 30.0
MOST_SHOTS = 200
"""Of one job, by the API."""


class Local:
    """AQT's circuits on the simulator that cirq-aqt brings, with its noise."""

    def __init__(self, spec: BackendSpec, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self._environment = environment

    def compile(self, problem: Problem, gammas: Angles, betas: Angles) -> Compiled:
        """In XX, R and Z rotations."""
        import cirq
        from cirq_aqt import aqt_target_gateset as target

        fits(self.spec, problem)
        circuit = circuits.qaoa_circuit(problem, gammas, betas, measured=False)
        native = cirq.optimize_for_target_gateset(circuit, gateset=target.AQTTargetGateset())
        # The API measures everything at the end, and wants no measurement in the circuit.
        return counted(native, problem.n)

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Simulate with AQT's noise, depolarizing and crosstalk; it takes no seed."""
        import cirq_aqt.aqt_device as device

        simulator = device.AQTSimulator(num_qubits=compiled.n, simulate_ideal=False)
        simulator.generate_circuit_from_list(self._program(compiled))
        return measured(simulator.simulate_samples(shots).measurements["m"], compiled.n)

    def _program(self, compiled: Compiled) -> str:
        import cirq
        import cirq_aqt

        made = cirq_aqt.AQTSampler("", "", "")._generate_json(
            compiled.circuit, cirq.ParamResolver()
        )
        return str(made)


class Aqt(Local):
    """AQT's API at `AQT_HOST`, or its public address."""

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Send jobs of at most `MOST_SHOTS` and wait for them."""
        until = time.monotonic() + wait
        rows: list[list[int]] = []
        while len(rows) < shots:
            rows += self._job(compiled, min(MOST_SHOTS, shots - len(rows)), until)
        return measured(rows, compiled.n)

    def _job(self, compiled: Compiled, shots: int, until: float) -> list[list[int]]:
        import cirq_aqt

        environment = self._environment
        sampler = cirq_aqt.AQTSampler("", "", "")
        job = {
            "job_type": "quantum_circuit",
            "label": "dripfleet",
            "payload": {
                "circuits": [
                    {
                        "repetitions": shots,
                        "quantum_circuit": sampler._parse_legacy_circuit_json(
                            self._program(compiled)
                        ),
                        "number_of_qubits": compiled.n,
                    }
                ]
            },
        }
        way = f"submit/{environment['AQT_WORKSPACE']}/{environment['AQT_RESOURCE']}"
        sent = self._ask("POST", way, json=job)
        name = (sent.get("job") or {}).get("job_id")
        if not name:
            raise JobLost(f"AQT took no job: {str(sent)[:200]}")
        while time.monotonic() < until:
            answer = self._ask("GET", f"result/{name}").get("response") or {}
            if answer.get("status") == "finished":
                rows: list[list[int]] = (answer.get("result") or {}).get("0") or []
                if not rows:
                    raise JobLost(f"AQT returned no measurement: {str(answer)[:200]}")
                return rows
            if answer.get("status") in ("error", "cancelled"):
                raise JobLost(f"AQT ended job {name} without a result: {str(answer)[:200]}")
            time.sleep(min(ASKS_EVERY, max(0.0, until - time.monotonic())))
        raise JobLost(f"AQT gave no result of job {name} in time: it may still run there")

    def _ask(self, method: str, way: str, **more: Any) -> dict[str, Any]:
        import requests

        host = (self._environment.get("AQT_HOST") or HOST).rstrip("/") + "/"
        headers = {"Authorization": f"Bearer {self._environment['AQT_TOKEN']}", "SDK": "cirq"}
        try:
            answer = requests.request(
                method, host + way, headers=headers, timeout=ANSWERS_WITHIN, **more
            )
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else None
            raise refusal("AQT", error, status) from error
        return found
