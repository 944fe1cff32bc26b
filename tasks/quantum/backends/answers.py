"""What vendors return, as bits or as an error that says what happens next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.quantum.backends.contract import BackendUnavailable, JobLost, within

T = TypeVar("T")

MALFORMED: Final = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What a client trips over where an answer is none."""


def measured(rows: Any, n: int) -> NDArray[np.int8]:
    """What a vendor returned, as bits of shape (shots, n).

    Raises:
        JobLost: it has another shape.
    """
    bits: NDArray[np.int8] = np.asarray(rows).astype(np.int8)
    if bits.ndim != 2 or bits.shape[1] != n or not len(bits):
        raise JobLost(f"the vendor returned bits of shape {bits.shape}: expected (shots, {n})")
    return bits


def refusal(vendor: str, error: BaseException, status: int | None) -> Exception:
    """What a vendor's error means for a run: refused for good, or to be tried again."""
    if status in (401, 403):
        return BackendUnavailable(f"{vendor} refused our credentials ({status}): correct them")
    return JobLost(f"{vendor} did not give a result: {type(error).__name__}: {str(error)[:200]}")


def answered(vendor: str, wait: float, work: Callable[[], T]) -> T:
    """Ask a vendor through its client, and wait no longer than that.

    Raises:
        JobLost: no result in that time, or whatever its client raises.
        BackendUnavailable: credentials were refused.
    """
    try:
        return within(wait, vendor, work)
    except (BackendUnavailable, JobLost):
        raise
    except Exception as error:
        raise refusal(vendor, error, getattr(error, "status_code", None)) from error
