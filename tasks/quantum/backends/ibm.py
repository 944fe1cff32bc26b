"""IBM: heavy-hex lattices, through qiskit; the layout is ours, the translation qiskit's.

Offline a snapshot of a real device (its lattice, gate errors and readout) runs on Aer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum.backends.answers import answered, measured
from tasks.quantum.backends.contract import (
    BackendSpec,
    BackendUnavailable,
    Compiled,
    JobLost,
    fits,
)  # fmt: skip
from tasks.quantum.backends.routed import layout_of
from tasks.quantum.engine.problem import Problem
from tasks.quantum.engine.qaoa import Angles, checked

DEVICE_WITHIN = 120.0
"""Seconds for the service to say what a device is today."""


class Fake:
    """A snapshot of Guadalupe (16 qubits, CX) on Aer."""

    def __init__(self, spec: BackendSpec, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self._environment = environment

    @cached_property
    def device(self) -> Any:
        """The device as qiskit knows it."""
        from qiskit_ibm_runtime.fake_provider import FakeGuadalupeV2

        return FakeGuadalupeV2()

    @cached_property
    def coupling(self) -> Any:
        """Which qubits touch."""
        import networkx as nx

        return nx.Graph([tuple(pair) for pair in self.device.coupling_map.get_edges()])

    def compile(self, problem: Problem, gammas: Angles, betas: Angles) -> Compiled:
        """Laid out by us; then translated to the device's gates, pairs merged, nothing moved."""
        from qiskit import transpile

        fits(self.spec, problem)
        gammas, betas = checked(gammas, betas)
        layout = layout_of(problem, self.coupling)
        used = sorted({*layout.begin, *(at for step in layout.steps for at in step.places)})
        circuit = self._circuit(problem, gammas, betas, layout, used)
        native = transpile(
            circuit,
            backend=self.device,
            initial_layout=used,
            optimization_level=3,
            routing_method="none",
            seed_transpiler=0,
        )
        two = sum(1 for each in native.data if len(each.qubits) == 2)
        return Compiled(native, two, native.depth(), problem.n)

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Simulate with the snapshot's noise."""
        from qiskit_aer import AerSimulator

        simulator = AerSimulator.from_backend(self.device)
        job = simulator.run(compiled.circuit, shots=shots, seed_simulator=seed % 2**31, memory=True)
        return _bits(job.result().get_memory(), compiled.n)

    def _circuit(
        self, problem: Problem, gammas: Any, betas: Any, layout: Any, used: list[int]
    ) -> Any:
        from qiskit import QuantumCircuit

        index = {place: k for k, place in enumerate(used)}
        place = list(layout.begin)
        circuit = QuantumCircuit(len(used), problem.n)
        for at in place:
            circuit.h(index[at])
        for gamma, beta, steps in zip(gammas, betas, layout.layers(len(gammas)), strict=True):
            for step in steps:
                a, b = (index[at] for at in step.places)
                if step.kind != "swap":
                    circuit.rzz(-gamma * problem.weights[step.pair], a, b)
                if step.kind != "zz":
                    circuit.swap(a, b)
                    for vertex, to in zip(step.pair, reversed(step.places), strict=True):
                        if vertex >= 0:
                            place[vertex] = to
            for at in place:
                circuit.rx(2 * beta, index[at])
        for vertex, at in enumerate(place):
            circuit.measure(index[at], vertex)
        return circuit


class Ibm(Fake):
    """A computer of IBM's, named by `QISKIT_IBM_BACKEND`, through the runtime service."""

    @cached_property
    def device(self) -> Any:
        """The device as the service describes it today."""
        from qiskit_ibm_runtime import QiskitRuntimeService

        name = self._environment["QISKIT_IBM_BACKEND"]

        def find() -> Any:
            service = QiskitRuntimeService(
                channel="ibm_quantum_platform",
                token=self._environment["QISKIT_IBM_TOKEN"],
                url=self._environment.get("QISKIT_IBM_URL") or None,
                instance=self._environment.get("QISKIT_IBM_INSTANCE") or None,
            )
            return service.backend(name)

        try:
            return answered("IBM", DEVICE_WITHIN, find)
        except JobLost as error:
            raise BackendUnavailable(f"IBM does not give us {name}: {error}") from error

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Send a job and wait for it."""
        from qiskit_ibm_runtime import SamplerV2

        def run() -> list[str]:
            with warnings.catch_warnings():
                # What replaces it answers in another form, and is not what the service's own
                # documentation names yet.
                warnings.filterwarnings("ignore", message="The SamplerV2 class is deprecated")
                sampler = SamplerV2(mode=self.device)
            job = sampler.run([compiled.circuit], shots=shots)
            words: list[str] = job.result()[0].data.c.get_bitstrings()
            return words

        return _bits(answered("IBM", wait, run), compiled.n)


def _bits(words: list[str], n: int) -> NDArray[np.int8]:
    """Qiskit writes the last bit first."""
    return measured([[int(c) for c in reversed(word)] for word in words], n)
