"""Group-sequential bounds: a few looks that are planned before the start.

All bounds are of |z|, two-sided: a test of level α spends α/2 above and α/2 below, each by its own
one-sided rule. In this convention the last of five O'Brien–Fleming bounds at α = .05 is 2.040, and
Pocock's is 2.413 (Jennison and Turnbull, "Group Sequential Methods", 2000, tables 2.1 and 2.3).
The chances come by recursive integration (Armitage, McPherson and Rowe 1969; chapter 19 there).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

Kind: TypeAlias = Literal["pocock", "obrien_fleming"]

NODES: Final = 160
FAR: Final = 9.0
"""A bound beyond it is never reached: the chance is below 1e-18."""


_gauss = cache(np.polynomial.legendre.leggauss)


def crossing(
    bounds: Sequence[float], information: Sequence[float], drift: float = 0.0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the chance to cross first at each look: above, and below.

    Args:
        bounds: of |z|, one a look.
        information: at each look, growing, in any unit.
        drift: expected z at information 1.

    Raises:
        ValueError: lengths that differ, none, or information that does not grow.
    """
    known = np.asarray(information, dtype=float)
    limits = np.minimum(np.asarray(bounds, dtype=float), FAR + abs(drift) * np.sqrt(known))
    if len(limits) != len(known) or not len(known) or np.any(np.diff(known, prepend=0.0) <= 0):
        raise ValueError("bounds and information: expected one of each a look, information growing")
    nodes, weights = _gauss(NODES)
    above, below = np.empty(len(known)), np.empty(len(known))
    at, mass = np.zeros(1), np.ones(1)  # where the score stands, and with which chance
    before = 0.0
    for look, (limit, now) in enumerate(zip(limits * np.sqrt(known), known, strict=True)):
        step = np.sqrt(now - before)
        mean = at + drift * (now - before)
        above[look] = mass @ ndtr((mean - limit) / step)
        below[look] = mass @ ndtr((-limit - mean) / step)
        if look + 1 < len(known):
            grid = nodes * limit
            apart = (grid[None, :] - mean[:, None]) / step
            density = mass @ (np.exp(-(apart**2) / 2) / (step * np.sqrt(2 * np.pi)))
            at, mass, before = grid, density * weights * limit, now
    return above, below


def alpha_of(bounds: Sequence[float], information: Sequence[float]) -> float:
    """Return the chance to cross any bound on either side where there is no effect."""
    above, below = crossing(bounds, information)
    return float(above.sum() + below.sum())


def fixed(kind: Kind, looks: int, alpha: float = 0.05) -> list[float]:
    """Return the bounds of |z| of Pocock or O'Brien–Fleming at ``looks`` equal steps.

    Raises:
        ValueError: no look, or more than 100.
    """
    if not 1 <= looks <= 100:
        raise ValueError(f"{looks} looks: expected 1 to 100")
    steps = np.arange(1, looks + 1) / looks
    shape = np.ones(looks) if kind == "pocock" else 1 / np.sqrt(steps)
    found = brentq(
        lambda c: alpha_of((c * shape).tolist(), steps.tolist()) - alpha, 0.5, 6.0, xtol=1e-9
    )
    return [float(each) for each in found * shape]


def spent(kind: Kind, fraction: float, alpha: float) -> float:
    """Return how much of a one-sided ``alpha`` may be spent up to a fraction of the information.

    Lan and DeMets, Biometrika 70 (1983): 2 − 2Φ(z_{α/2} / √t), or α ln(1 + (e − 1) t).
    """
    t = min(max(fraction, 1e-12), 1.0)
    if kind == "pocock":
        return float(alpha * np.log1p((np.e - 1) * t))
    return float(2 * ndtr(ndtri(alpha / 2) / np.sqrt(t)))


def spending(kind: Kind, fractions: Sequence[float], alpha: float = 0.05) -> list[float]:
    """Return the bounds of |z| of Lan and DeMets at looks that come whenever they come.

    Args:
        kind: whose bounds the spending is like.
        fractions: of the planned information at each look, growing; the last may be below 1.
        alpha: of both sides together; each spends half of it.
    """
    bounds: list[float] = []
    before = 0.0
    for look, fraction in enumerate(fractions, 1):
        now = spent(kind, fraction, alpha / 2)
        share, upto = now - before, list(fractions[:look])

        def excess(bound: float, share: float = share, upto: list[float] = upto) -> float:
            return float(crossing([*bounds, bound], upto)[0][-1]) - share

        bounds.append(FAR if excess(FAR) >= 0 else float(brentq(excess, 0.0, FAR, xtol=1e-9)))
        before = now
    return bounds
