"""What a backend is, what it promises, and how it says no."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tasks.errors import Permanent, Transient

if TYPE_CHECKING:  # what is known of backends is known without numpy
    import numpy as np
    from numpy.typing import NDArray

    from tasks.quantum.engine.problem import Problem
    from tasks.quantum.engine.qaoa import Angles
    from tasks.quantum.engine.verdict import Kind

T = TypeVar("T")


class BackendUnavailable(Permanent):
    """A backend that cannot run here: its extra or its credentials are missing, or nobody knows it."""


class TargetRefused(BackendUnavailable):
    """A circuit in gates that a device's noise data do not cover: it would look good for nothing."""


class TooManyQubits(Permanent):
    """A problem that does not fit on a backend."""


class JobLost(Transient):
    """A job that was sent and did not come back in time, or a vendor who does not answer."""


@dataclass(frozen=True)
class BackendSpec:
    """What is known of a backend before anything of it is imported.

    Attributes:
        name: by which it is asked for.
        title: for people.
        kind: `ideal` and `noisy_virtual` are classical computers; `hardware` is the thing itself.
        where: `module:Class` under `tasks.quantum.backends`.
        extra: the optional dependencies it needs, beside `quantum`; None: none.
        needs: a module of that extra, by which one sees that it is installed.
        credentials: environment variables without which it cannot be asked; the vendor's own names.
        max_qubits: of a circuit.
        gates: native two-qubit gates that it is compiled to.
        coupling: `all`, or what kind of lattice.
        twin: the backend that stands in for it offline, in tests; never by itself.
    """

    name: str
    title: str
    kind: Kind
    where: str
    extra: str | None
    needs: str | None
    max_qubits: int
    gates: tuple[str, ...]
    coupling: str
    credentials: tuple[str, ...] = ()
    twin: str | None = None

    @property
    def slow(self) -> bool:
        """Whether its runs belong in the queue of noisy ones: seconds to minutes a job."""
        return self.kind != "ideal"


@dataclass(frozen=True)
class Compiled:
    """A circuit in native gates.

    Attributes:
        circuit: as the backend submits it.
        two_qubit: two-qubit gates.
        depth: moments, or what the vendor's library counts as depth.
        n: vertices; the measured bits come in their order.
    """

    circuit: Any
    two_qubit: int
    depth: int
    n: int


class Backend(Protocol):
    """Something that measures QAOA circuits."""

    spec: BackendSpec

    def compile(self, problem: Problem, gammas: Angles, betas: Angles) -> Compiled:
        """The circuit of these angles in native gates, routed.

        Raises:
            TooManyQubits: it does not fit.
            TargetRefused: see the class.
        """

    def submit(self, compiled: Compiled, shots: int, seed: int, wait: float) -> NDArray[np.int8]:
        """Measure: bits of shape (shots, n), column v of vertex v.

        Args:
            compiled: of this backend.
            shots: measurements.
            seed: of a simulator; hardware has none.
            wait: seconds after which a job is given up.

        Raises:
            JobLost: no result in that time, or no answer.
            BackendUnavailable: credentials were refused.
        """


def within(seconds: float, what: str, work: Callable[[], T]) -> T:
    """Do something that may never return, and wait no longer than that for it.

    A vendor's client has no time limit of its own; its thread ends with this process.

    Raises:
        JobLost: it took longer.
    """
    done: list[T] = []
    fault: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            fault.append(error)

    thread = threading.Thread(target=run, daemon=True, name=f"waits for {what}")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise JobLost(
            f"{what} gave no result within {seconds:g} s: its job may still run there; look at the"
            " vendor's console, or run the segment again"
        )
    if fault:
        raise fault[0]
    return done[0]


def fits(spec: BackendSpec, problem: Problem) -> None:
    """Raises `TooManyQubits` where the problem is too large for the backend."""
    if problem.n > spec.max_qubits:
        raise TooManyQubits(
            f"{problem.n} points need {problem.n} qubits, and {spec.name} takes"
            f" {spec.max_qubits}: take a coreset of at most {spec.max_qubits} points (--points)"
        )
