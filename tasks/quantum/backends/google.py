"""Google's virtual machines: the lattice and the median noise of a device, computed here.

The noise data of a device cover its own two-qubit gate. A circuit in another gate would run without
two-qubit noise and look good for nothing, so such a target is refused.
Source: cirq_google.engine.load_median_device_calibration; the data ship with the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum import circuits
from tasks.quantum.backends.contract import BackendSpec, Compiled, TargetRefused, fits
from tasks.quantum.backends.routed import layout_of, routed_circuit
from tasks.quantum.backends.simulators import counted
from tasks.quantum.engine.problem import Problem
from tasks.quantum.engine.qaoa import Angles


class Virtual:
    """A virtual device with noise.

    Args:
        spec: of the registry.
        environment: not used.
        gate: to compile to; by default the device's own.
    """

    processor = ""

    def __init__(
        self, spec: BackendSpec, environment: Mapping[str, str], gate: str | None = None
    ) -> None:
        self.spec = spec
        self.gate = gate or spec.gates[0]

    @cached_property
    def _noise(self) -> Any:
        from cirq_google.engine import load_device_noise_properties

        return load_device_noise_properties(self.processor)

    @cached_property
    def qubits(self) -> list[Any]:
        """The device's qubits, in order."""
        return sorted(self._metadata.qubit_set)

    @cached_property
    def _metadata(self) -> Any:
        from cirq_google.engine import create_device_from_processor_id

        return create_device_from_processor_id(self.processor).metadata

    @cached_property
    def coupling(self) -> Any:
        """Which qubits touch, by their place in `qubits`."""
        import networkx as nx

        place = {qubit: at for at, qubit in enumerate(self.qubits)}
        return nx.Graph([(place[a], place[b]) for a, b in self._metadata.nx_graph.edges])

    def covered(self) -> set[str]:
        """Two-qubit gates that the device's noise data cover."""
        words = {"SycamoreGate": "SYC", "CZPowGate": "CZ", "ISwapPowGate": "ISWAP"}
        kinds = {
            key.gate_type.__name__ for key in self._noise.gate_pauli_errors if len(key.qubits) == 2
        }
        return {words.get(kind, kind) for kind in kinds}

    def compile(self, problem: Problem, gammas: Angles, betas: Angles) -> Compiled:
        """Laid out on the lattice, in the gate that the noise data cover."""
        import cirq

        fits(self.spec, problem)
        if self.gate not in self.covered():
            raise TargetRefused(
                f"{self.spec.name} has no noise data for {self.gate}: a circuit in it would run"
                f" without two-qubit noise; compile to {' or '.join(sorted(self.covered()))}"
            )
        layout = layout_of(problem, self.coupling)
        circuit = routed_circuit(problem, gammas, betas, layout, self.qubits)
        native = cirq.optimize_for_target_gateset(circuit, gateset=self._gateset())
        return counted(native, problem.n)

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Simulate with the device's noise: a trajectory a shot."""
        import cirq_google

        model = cirq_google.NoiseModelFromGoogleNoiseProperties(self._noise)
        simulator = self._simulator(model, seed)
        return circuits.sample(compiled.circuit, simulator, shots)

    def _simulator(self, noise: Any, seed: int) -> Any:
        from importlib.util import find_spec

        if find_spec("qsimcirq") is not None:
            import qsimcirq

            return qsimcirq.QSimSimulator(noise=noise, seed=seed % 2**31)
        import cirq

        return cirq.Simulator(noise=noise, seed=seed)

    def _gateset(self) -> Any:
        import cirq
        import cirq_google

        made = {
            "SYC": cirq_google.SycamoreTargetGateset,
            "CZ": cirq.CZTargetGateset,
            "ISWAP": cirq.SqrtIswapTargetGateset,
        }
        return made[self.gate]()


class Rainbow(Virtual):
    """Rainbow: 23 qubits, Sycamore gates."""

    processor = "rainbow"


class Willow(Virtual):
    """Willow: 105 qubits, CZ."""

    processor = "willow_pink"
