"""What `uplift:KEY` names, and the one rule by which such a score is offered. No pandas.

::

    uplift:win-back                what its mails add, learned from those who were held out
    uplift:win-back/split          what the other arm of an ended experiment adds to its control
    uplift:win-back/split/offer    of several arms, this one
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tasks.errors import Permanent

PREFIX: Final = "uplift:"


@dataclass(frozen=True, slots=True)
class Asked:
    """A sequence, or an experiment of it, or one arm of that."""

    sequence: str
    step: str | None = None
    arm: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.sequence, self.step, self.arm) if part)


def is_uplift(name: str) -> bool:
    """Whether a score is an uplift."""
    return name.startswith(PREFIX)


def parse(name: str) -> Asked:
    """Read the name of a score, or a key alone.

    Raises:
        Permanent: it names no sequence, or has more than three parts.
    """
    parts = name.removeprefix(PREFIX).split("/")
    if not all(parts) or len(parts) > 3:
        raise Permanent(
            f"{name!r} names no uplift: expected uplift:SEQUENCE of a sequence with a holdout, or"
            " uplift:SEQUENCE/STEP of an experiment; `dripfleet experiment list` names those there are"
        )
    return Asked(*parts)


def no_gain(name: str, report: Mapping[str, Any]) -> str | None:
    """Why nobody may branch on an uplift; None: its Qini coefficient lies above 0 with its interval.

    Args:
        name: of the score.
        report: as its manifest has it.
    """
    value, low, high = report["qini"]
    if low > 0:
        return None
    return (
        f"no gain is shown by {name}: its Qini coefficient is {value:+.3f} ({low:+.3f} to"
        f" {high:+.3f}), and the interval does not lie above 0"
    )
