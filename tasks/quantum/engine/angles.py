"""Where to begin: angles that are good for any graph of a kind, and longer lists from shorter ones."""

from __future__ import annotations

from typing import Final

import numpy as np

from tasks.quantum.engine.problem import Floats, Problem

# Best angles on trees (`tree.cut_per_edge`), which hold for every 3-regular graph
# (Wurtz and Lykov, "fixed angle conjecture", arXiv:2107.00677): p → γ, β.
CUBIC: Final[dict[int, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    1: ((0.61548,), (0.3927,)),
    2: ((0.48784, 0.89784), (0.55491, 0.29238)),
    3: ((0.42184, 0.7984, 0.937), (0.60895, 0.45957, 0.23568)),
    4: ((0.40875, 0.78057, 0.98802, 1.15688), (0.59955, 0.43433, 0.29675, 0.15903)),
}

# Best angles at infinite degree (`tree.gain_at_infinity`; Basso et al., arXiv:2110.14206, table 4).
INFINITE: Final[dict[int, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    1: ((0.5,), (0.3927,)),
    2: ((0.3817, 0.6655), (0.496, 0.269)),
    3: ((0.3297, 0.5688, 0.6406), (0.55, 0.3675, 0.2109)),
    4: ((0.295, 0.5144, 0.5586, 0.6429), (0.571, 0.4176, 0.3028, 0.1729)),
    5: (
        (0.2705, 0.4804, 0.5074, 0.5647, 0.6397),
        (0.5899, 0.4492, 0.3559, 0.2643, 0.1486),
    ),
    6: (
        (0.2528, 0.4531, 0.475, 0.5146, 0.565, 0.6392),
        (0.6004, 0.467, 0.388, 0.3176, 0.2325, 0.1291),
    ),
}


def fixed(problem: Problem, p: int) -> tuple[Floats, Floats]:
    """Angles without optimization, γ and β of shape (p,): of 3-regular graphs, else of the dense limit.

    γ of the dense limit is 2γ∞ / `Problem.scale`. Beyond the tables they are interpolated.
    """
    if p < 1:
        raise ValueError(f"p = {p}: expected at least one layer")
    table = CUBIC if _is_cubic(problem) else INFINITE
    known = min(p, max(table))
    gammas, betas = (np.array(each) for each in table[known])
    if table is INFINITE:
        gammas = gammas * 2 / problem.scale
    else:
        gammas = gammas / float(np.abs(problem.weights).max())
    while len(gammas) < p:
        gammas, betas = longer(gammas), longer(betas)
    return gammas, betas


def longer(angles: Floats) -> Floats:
    """INTERP: p angles as p+1 along the same curve.

    Source: Zhou, Wang, Choi, Pichler, Lukin, arXiv:1812.01041, appendix B.
    """
    p = len(angles)
    left = np.concatenate([[0.0], angles])
    right = np.concatenate([angles, [0.0]])
    place = np.arange(p + 1)
    grown: Floats = place / p * left + (p - place) / p * right
    return grown


def _is_cubic(problem: Problem) -> bool:
    weights = problem.weights
    present = weights != 0
    values = weights[present]
    return bool((present.sum(axis=1) == 3).all() and values[0] > 0 and (values == values[0]).all())
