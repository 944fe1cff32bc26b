"""IonQ: every qubit touches every other; circuits in ZZ, sent by cirq-ionq."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum import circuits
from tasks.quantum.backends.answers import MALFORMED, measured, refusal
from tasks.quantum.backends.contract import (
    BackendSpec,
    Compiled,
    fits,
    within,
)  # fmt: skip
from tasks.quantum.backends.simulators import counted
from tasks.quantum.engine.problem import Problem
from tasks.quantum.engine.qaoa import Angles

HOST = "https://api.ionq.co"
RETRIES = 60
"""Seconds for which its client repeats a request that was refused for a moment."""


class Local:
    """The circuits that IonQ would get, checked by its serializer, on cirq's simulator."""

    def __init__(self, spec: BackendSpec, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self._environment = environment

    def compile(self, problem: Problem, gammas: Angles, betas: Angles) -> Compiled:
        """In gates that IonQ's API takes."""
        import cirq_ionq

        fits(self.spec, problem)
        circuit = circuits.qaoa_circuit(problem, gammas, betas)
        cirq_ionq.Serializer().serialize_single_circuit(circuit)
        return counted(circuit, problem.n)

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Simulate once, and draw."""
        import cirq

        return circuits.sample(compiled.circuit, cirq.Simulator(seed=seed), shots)


class IonQ(Local):
    """IonQ's API at `IONQ_HOST`, or its public address; `IONQ_TARGET` is `qpu` by default."""

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Send a job and wait for it."""
        import cirq_ionq

        service = cirq_ionq.Service(
            remote_host=self._environment.get("IONQ_HOST") or HOST,
            api_key=self._environment["IONQ_API_KEY"],
            max_retry_seconds=RETRIES,
        )
        target = self._environment.get("IONQ_TARGET") or "qpu"

        def run() -> Any:
            job = service.create_job(compiled.circuit, repetitions=shots, target=target)
            return job.results(timeout_seconds=max(1, int(wait)), polling_seconds=1)

        try:
            found = within(wait, "IonQ", run)
        except (cirq_ionq.IonQException, TimeoutError, OSError, RuntimeError, *MALFORMED) as error:
            raise refusal("IonQ", error, getattr(error, "status_code", None)) from error
        result = found[0] if isinstance(found, list) else found
        # A simulator there gives probabilities, from which shots are drawn here.
        simulated = isinstance(result, cirq_ionq.SimulatorResult)
        given = result.to_cirq_result(seed=seed) if simulated else result.to_cirq_result()
        rows = measured(given.measurements[circuits.KEY], compiled.n)
        # Counts were rounded from probabilities, state by state: they add up to about the shots.
        rng = np.random.default_rng(seed)
        rows = rng.permutation(rows)[:shots]
        return np.concatenate([rows, rows[rng.integers(len(rows), size=shots - len(rows))]])
