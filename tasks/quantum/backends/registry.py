"""Every backend that is known, and how one is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Final, cast

from tasks.quantum.backends.contract import Backend, BackendSpec, BackendUnavailable

_ALL: Final = (
    BackendSpec(
        "engine", "our own state vector, no circuit", "ideal", "simulators:Engine",
        None, "numba", 22, (), "all",
    ),
    BackendSpec(
        "cirq", "cirq's state vector simulator", "ideal", "simulators:Cirq",
        "quantum", "cirq", 20, ("ZZ",), "all",
    ),
    BackendSpec(
        "qsim", "qsim, Google's state vector simulator", "ideal", "simulators:Qsim",
        "qsim", "qsimcirq", 22, ("ZZ",), "all",
    ),
    BackendSpec(
        "google-rainbow", "virtual Rainbow with its median noise", "noisy_virtual", "google:Rainbow",
        "google", "cirq_google", 12, ("SYC",), "grid",
    ),
    BackendSpec(
        "google-willow", "virtual Willow with its median noise", "noisy_virtual", "google:Willow",
        "google", "cirq_google", 12, ("CZ",), "grid",
    ),
    BackendSpec(
        "ionq", "IonQ's computers", "hardware", "ionq:IonQ",
        "ionq", "cirq_ionq", 25, ("ZZ",), "all", ("IONQ_API_KEY",), "ionq-local",
    ),
    BackendSpec(
        "ionq-local", "IonQ's circuits on cirq's simulator", "ideal", "ionq:Local",
        "ionq", "cirq_ionq", 20, ("ZZ",), "all",
    ),
    BackendSpec(
        "aqt", "AQT's computers", "hardware", "aqt:Aqt",
        "aqt", "cirq_aqt", 12, ("MS",), "all",
        ("AQT_TOKEN", "AQT_WORKSPACE", "AQT_RESOURCE"), "aqt-local",
    ),
    BackendSpec(
        "aqt-local", "AQT's circuits on its own noisy simulator", "noisy_virtual", "aqt:Local",
        "aqt", "cirq_aqt", 10, ("MS",), "all",
    ),
    BackendSpec(
        "pasqal", "Pasqal's computers", "hardware", "pasqal:Pasqal",
        "pasqal", "cirq_pasqal", 20, ("CZ",), "all", ("PASQAL_URL", "PASQAL_TOKEN"), "pasqal-local",
    ),
    BackendSpec(
        "pasqal-local", "Pasqal's circuits on cirq's simulator", "ideal", "pasqal:Local",
        "pasqal", "cirq_pasqal", 16, ("CZ",), "all",
    ),
    BackendSpec(
        "ibm", "IBM's computers", "hardware", "ibm:Ibm",
        "ibm", "qiskit_ibm_runtime", 24, ("CZ", "ECR"), "heavy-hex",
        ("QISKIT_IBM_TOKEN", "QISKIT_IBM_BACKEND"), "ibm-fake",
    ),
    BackendSpec(
        "ibm-fake", "a snapshot of IBM's Guadalupe on Aer, with its noise", "noisy_virtual", "ibm:Fake",
        "ibm", "qiskit_aer", 12, ("CX",), "heavy-hex",
    ),
    BackendSpec(
        "rigetti", "Rigetti's computers", "hardware", "rigetti:Rigetti",
        "rigetti", "qcs_sdk", 20, ("CZ",), "octagons",
        ("QCS_SECRETS_FILE_PATH", "RIGETTI_QPU"), "rigetti-qvm",
    ),
    BackendSpec(
        "rigetti-qvm", "Rigetti's simulator, a QVM that runs beside us", "ideal", "rigetti:Qvm",
        "rigetti", "qcs_sdk", 20, ("CNOT",), "all", ("QVM_URL",), "rigetti-local",
    ),
    BackendSpec(
        "rigetti-local", "Rigetti's Quil on cirq's simulator", "ideal", "rigetti:Local",
        "quantum", "cirq", 16, ("CNOT",), "all",
    ),
)  # fmt: skip

REGISTRY: Final[dict[str, BackendSpec]] = {spec.name: spec for spec in _ALL}


def spec_of(name: str) -> BackendSpec:
    """The spec of that name.

    Raises:
        BackendUnavailable: there is none.
    """
    if name not in REGISTRY:
        raise BackendUnavailable(
            f"there is no backend {name!r}: expected one of {', '.join(REGISTRY)}"
        )
    return REGISTRY[name]


def why_not(spec: BackendSpec, environment: Mapping[str, str] = os.environ) -> str | None:
    """Why a backend cannot be opened here, and the next move; None: it can. Imports nothing."""
    if spec.needs is not None and find_spec(spec.needs) is None:
        extras = ",".join(dict.fromkeys(("quantum", spec.extra or "quantum")))
        return f"{spec.needs} is not installed: pip install 'dripfleet[{extras}]'"
    missing = [name for name in spec.credentials if not environment.get(name, "").strip()]
    if missing:
        return f"{', '.join(missing)} not set: expected the vendor's address or credentials in the environment"
    return None


def open_backend(name: str, environment: Mapping[str, str] = os.environ) -> Backend:
    """The backend of that name, and no other.

    Raises:
        BackendUnavailable: nobody knows it, or its extra or credentials are missing.
    """
    spec = spec_of(name)
    if reason := why_not(spec, environment):
        raise BackendUnavailable(f"backend {name} cannot run here: {reason}")
    module, _, kind = spec.where.partition(":")
    made = getattr(import_module(f"tasks.quantum.backends.{module}"), kind)(spec, environment)
    return cast(Backend, made)
