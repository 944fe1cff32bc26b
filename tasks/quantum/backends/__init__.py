"""Where circuits run: a registry of simulators, virtual devices and hardware.

::

    backend = open_backend("google-willow")        # or BackendUnavailable, with the next move
    compiled = backend.compile(problem, gammas, betas)
    bits = backend.submit(compiled, shots=1000, seed=0, wait=600)

Nothing here ever falls back to something else: what was asked for runs, or a sentence says why not.
Vendors' libraries are imported by the backend that needs them, when it is opened.
"""

from tasks.quantum.backends.contract import (
    Backend,
    BackendSpec,
    BackendUnavailable,
    Compiled,
    JobLost,
    TargetRefused,
    TooManyQubits,
)  # fmt: skip
from tasks.quantum.backends.registry import REGISTRY, open_backend, spec_of, why_not

__all__ = [
    "REGISTRY", "Backend", "BackendSpec", "BackendUnavailable", "Compiled", "JobLost",
    "TargetRefused", "TooManyQubits", "open_backend", "spec_of", "why_not",
]  # fmt: skip
