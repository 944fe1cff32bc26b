"""Did the arms get the shares that they were to get? Asked first: if not, nothing else is true."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from scipy.special import chdtrc

MISMATCH: Final = 0.001
"""Below it the arms are no random halves of the same people, and the report stops (Fabijan et al.
2019, "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD)."""


def sample_ratio(spans: Iterable[tuple[Sequence[int], Sequence[float]]]) -> float:
    """Return the p-value of Pearson's chi-square of counts against shares.

    Args:
        spans: counts and shares of each span of time in which the shares stood still, a number an
            arm, in any order; shares need not sum to 1, and an arm whose share is 0 must be empty.

    Returns:
        0 … 1, the statistics and degrees of freedom of all spans together; 1 where nobody came, 0
        where somebody is in an arm that nobody was to get.

    Raises:
        ValueError: counts and shares of different lengths, a negative one, or no share above 0.
    """
    statistic, freedom = 0.0, 0
    for counts, shares in spans:
        if len(counts) != len(shares) or min((*counts, *shares)) < 0 or sum(shares) <= 0:
            raise ValueError(
                f"counts {list(counts)} and shares {list(shares)}: expected one of each an arm,"
                " none below 0, and a share above 0"
            )
        people, whole = sum(counts), sum(shares)
        if not people:
            continue
        if any(n and not share for n, share in zip(counts, shares, strict=True)):
            return 0.0
        wanted = [(n, people * s / whole) for n, s in zip(counts, shares, strict=True) if s]
        statistic += sum((n - expected) ** 2 / expected for n, expected in wanted)
        freedom += len(wanted) - 1
    return float(chdtrc(freedom, statistic)) if freedom else 1.0
