"""Every backend keeps one contract; none is replaced by another without a word."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from tasks.errors import Permanent
from tasks.quantum.backends import (
    REGISTRY,
    BackendUnavailable,
    JobLost,
    TargetRefused,
    TooManyQubits,
    open_backend,
    spec_of,
    why_not,
)  # fmt: skip
from tasks.quantum.backends.contract import within
from tasks.quantum.engine import Qaoa, problem_from
from tasks.quantum.engine.angles import fixed
from tasks.quantum.engine.problem import Problem
from tests.unit.quantum.vendors import IBM_INSTANCE, UNSIGNED, Fault, vendor

HARDWARE = sorted(name for name, spec in REGISTRY.items() if spec.kind == "hardware")
LOCAL = sorted(name for name, spec in REGISTRY.items() if not spec.credentials)
VENDORS = ("ionq", "aqt", "pasqal", "ibm")
"""Hardware that is asked over HTTP; Rigetti's wants gRPC, so their QVM is asked in its place."""
SLOW = {"google-rainbow": 150, "google-willow": 150, "ibm-fake": 150, "aqt-local": 40}
"""Shots of those that simulate noise."""


def small(n: int = 4) -> Problem:
    """Weights that differ, so that mixed-up vertices are seen."""
    weights = np.zeros((n, n))
    for a in range(n - 1):
        weights[a, a + 1] = weights[a + 1, a] = 1.0 + a
    weights[0, n - 1] = weights[n - 1, 0] = 0.5
    return problem_from(weights)


def opened(name: str, **environment: str) -> Any:
    if reason := why_not(spec_of(name), {**environment, **credentials(name, "http://x")}):
        pytest.skip(f"{name}: {reason}")
    return open_backend(name, {**credentials(name, "http://x"), **environment})


def credentials(name: str, url: str) -> dict[str, str]:
    given = dict.fromkeys(spec_of(name).credentials, "a-secret")
    return given | {
        "IONQ_HOST": url, "AQT_HOST": f"{url}/api/v1", "PASQAL_URL": url, "QVM_URL": url,
        # A path that has the word in it is taken as it is, by their client.
        "QISKIT_IBM_URL": f"{url}/experimental", "QISKIT_IBM_INSTANCE": IBM_INSTANCE,
        "QISKIT_IBM_BACKEND": "ibm_guadalupe",
    }  # fmt: skip


def addressed(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Its credentials; and where IBM's client asks who we are, and what we may use."""
    for service in ("IAM", "GLOBAL_SEARCH", "GLOBAL_CATALOG"):
        monkeypatch.setenv(f"{service}_URL", url)
    return credentials(name, url)


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_backend_measures_the_circuit_it_was_given(name: str) -> None:
    backend = opened(name)
    problem = small()
    gammas, betas = fixed(problem, 1)
    compiled = backend.compile(problem, gammas, betas)
    assert compiled.n == 4 and compiled.two_qubit >= 4 and compiled.depth >= 3
    shots = SLOW.get(name, 4000)
    bits = backend.submit(compiled, shots, 7, 60.0)
    assert bits.shape == (shots, 4) and bits.dtype == np.int8 and set(np.unique(bits)) <= {0, 1}
    ideal = Qaoa(problem).expectation(gammas, betas)
    nothing = problem.weights.sum() / 4
    mean = float(problem.cut(bits).mean())
    if REGISTRY[name].kind == "ideal":
        assert mean == pytest.approx(ideal, abs=0.15)
    else:
        # Noise draws toward the mean of random cuts, and does not get there.
        assert nothing + 0.3 * (ideal - nothing) < mean < ideal + 0.6


@pytest.mark.parametrize("name", ["cirq", "qsim", "engine"])
def test_the_same_seed_gives_the_same_shots(name: str) -> None:
    backend = opened(name)
    compiled = backend.compile(small(), *fixed(small(), 1))
    first, again, other = (backend.submit(compiled, 64, seed, 60.0) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("name", HARDWARE)
def test_hardware_without_credentials_says_so_and_nothing_runs_instead(name: str) -> None:
    spec = spec_of(name)
    assert (
        spec.credentials and spec.twin in REGISTRY and REGISTRY[str(spec.twin)].kind != "hardware"
    )
    with pytest.raises(BackendUnavailable, match=f"backend {name} cannot run here: "):
        open_backend(name, {})


def test_what_nobody_knows_is_named_with_what_there_is() -> None:
    with pytest.raises(
        BackendUnavailable, match="no backend 'dwave': expected one of engine, cirq"
    ):
        open_backend("dwave")


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_problem_that_does_not_fit_is_refused(name: str) -> None:
    backend = opened(name)
    n = min(REGISTRY[name].max_qubits + 1, 24)
    if n <= REGISTRY[name].max_qubits:
        pytest.skip("it takes more qubits than the engine simulates")
    with pytest.raises(TooManyQubits, match=f"need {n} qubits"):
        backend.compile(problem_from(np.ones((n, n)) - np.eye(n)), [0.1], [0.1])


@pytest.mark.parametrize(
    ("name", "own", "other"), [("google-rainbow", "SYC", "CZ"), ("google-willow", "CZ", "SYC")]
)
def test_a_gate_without_noise_data_is_refused(name: str, own: str, other: str) -> None:
    backend = opened(name)
    assert own in backend.covered() and other not in backend.covered()
    backend.gate = other
    with pytest.raises(TargetRefused, match=f"no noise data for {other}.*compile to .*{own}"):
        backend.compile(small(), [0.1], [0.1])


@pytest.mark.parametrize("name", [*VENDORS, "rigetti-qvm"])
def test_a_vendor_gets_our_circuit_and_its_bits_come_back_in_our_order(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with vendor() as server:
        backend = opened(name, **addressed(name, server.url, monkeypatch))
        problem = small()
        gammas, betas = fixed(problem, 1)
        compiled = backend.compile(problem, gammas, betas)
        bits = backend.submit(compiled, 1000, 0, 20.0)
        assert bits.shape == (1000, 4)
        ideal = Qaoa(problem).expectation(gammas, betas)
        assert float(problem.cut(bits).mean()) == pytest.approx(ideal, abs=0.3)
        asked = [said for _, way, said, _ in server.requests if way not in UNSIGNED]
        assert asked
        if spec_of(name).kind == "hardware":
            assert all("a-secret" in str(said) for said in asked)


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize(
    ("fault", "kind", "word"),
    [
        ("refuses", BackendUnavailable, "refused our credentials"),
        ("never", JobLost, "result"),
        ("breaks", JobLost, "did not give a result"),
        ("garbage", JobLost, "[Rr]eturned|did not give a result|ended"),
    ],
)
def test_a_vendor_in_trouble_is_a_sentence(
    name: str, fault: Fault, kind: type[Exception], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "ibm" and fault in ("refuses", "breaks"):
        kind, word = (
            BackendUnavailable,
            "IBM does not give us ibm_guadalupe|refused our credentials",
        )
    with vendor(fault) as server:
        backend = opened(name, **addressed(name, server.url, monkeypatch))
        began = time.monotonic()
        with pytest.raises(kind, match=word):
            compiled = backend.compile(small(), [0.2], [0.3])
            backend.submit(compiled, 10, 0, 1.5)
        assert time.monotonic() - began < 10
        assert server.requests, "it was asked"


@pytest.mark.parametrize("fault", ["refuses", "breaks", "garbage", "hangs"])
def test_a_qvm_in_trouble_is_a_sentence(fault: Fault) -> None:
    with vendor(fault) as server:
        backend = opened("rigetti-qvm", QVM_URL=server.url)
        compiled = backend.compile(small(), [0.2], [0.3])
        with pytest.raises(JobLost, match=r"(QVM|vendor) (did not give|gave no|returned)"):
            backend.submit(compiled, 10, 0, 0.5)
        assert server.requests, "it was asked"


def test_quil_that_is_none_of_ours_is_not_guessed_at() -> None:
    from tasks.quantum.backends.rigetti import read

    with pytest.raises(ValueError, match="'CZ 0 1' is no Quil of ours"):
        read("DECLARE ro BIT[2]\nH 0\nCZ 0 1\n")


@pytest.mark.parametrize("name", ["ionq"])
def test_a_vendor_that_never_answers_is_given_up(name: str) -> None:
    with vendor("hangs") as server:
        backend = opened(name, **credentials(name, server.url))
        compiled = backend.compile(small(), [0.2], [0.3])
        with pytest.raises(JobLost, match=r"no result within 0.5 s"):
            backend.submit(compiled, 10, 0, 0.5)


def test_waiting_passes_on_what_went_wrong() -> None:
    with pytest.raises(Permanent, match="no"):
        within(5, "somebody", lambda: (_ for _ in ()).throw(Permanent("no")))
    assert within(5, "somebody", lambda: 3) == 3
