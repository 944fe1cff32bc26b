"""A difference between the mailed and those held out: what carries one, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

EXPECTED: Final = 5.0
"""Conversions that each arm would have, were both alike: with fewer no interval means anything."""


@dataclass(frozen=True, slots=True)
class Span:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Span:
        """Return it in another unit."""
        return Span(self.value * factor, self.low * factor, self.high * factor)


def too_few(n: int, x: int, m: int, y: int) -> str | None:
    """Why ``x`` of ``n`` mailed and ``y`` of ``m`` held out carry no statement, or None."""
    if not n or not m:
        return f"{n} were mailed and {m} held out since the holdout is as it is"
    rate = (x + y) / (n + m)
    expected = min(n, m) * rate
    if expected >= EXPECTED:
        return None
    few = f"{x} of {n} mailed and {y} of {m} held out converted"
    if not rate:
        return f"{few}; wait for conversions"
    share = min(n, m) / (n + m)
    return f"{few}; it takes about {EXPECTED / rate / share:.0f} entries, or a larger holdout"


def value_of(ours: Any, theirs: Any, n: int, m: int) -> Span | None:
    """Value per thousand people more, of rows with ``values`` of ``n`` and ``m`` people.

    None without numpy.
    Bootstrap of 2 000 draws, fixed seed: the same values give the same interval.
    """
    if find_spec("numpy") is None:
        return None
    from tasks.experiment.bootstrap import mean_difference

    mine, other = (
        [float(v) for v in (row.values if row else None) or ()] for row in (ours, theirs)
    )
    low, high = mean_difference(other, m, mine, n)
    return Span(sum(mine) / n - sum(other) / m, low, high).times(1000)
