"""One thing that the doctor looked at: how it is, and the next move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["fine", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at.

    `error`: something is not done, or not safe, until somebody acts. `warning`: worth knowing, or
    wanted so by somebody. `fine`: looked at, nothing to do.
    """

    check: str
    severity: Severity
    says: str
    next: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is no error."""
        return self.severity != "error"


def fine(check: str, says: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "fine", says)


def warning(check: str, says: str, next: str) -> Finding:
    """Worth knowing."""
    return Finding(check, "warning", says, next)


def error(check: str, says: str, next: str) -> Finding:
    """Somebody has to act."""
    return Finding(check, "error", says, next)
