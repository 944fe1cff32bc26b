"""QAOA on graphs without short cycles: the cut per edge as p grows, without simulating a graph.

Around an edge of a regular graph of girth above 2p+1 the circuit sees a tree, the same for every
edge; sums over the 2p+1 bits that one qubit passes through give ⟨C⟩ per edge exactly, for any
degree, and for degree → ∞, where it is that of the Sherrington–Kirkpatrick model.
Source: Basso, Farhi, Marwaha, Villalonga, Zhou, arXiv:2110.14206, sections 3 and 4.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from tasks.quantum.engine.qaoa import Angles, checked

Complex = NDArray[np.complex128]


def cut_per_edge(degree: int, gammas: Angles, betas: Angles) -> float:
    """⟨C⟩ per edge of a `degree`-regular graph of girth above 2p+1.

    Args:
        degree: at least 2; of the ring, n > 2p vertices will do.
        gammas: p angles, in the convention of `qaoa` (per unit of weight).
        betas: as many.
    """
    gammas, betas = checked(gammas, betas)
    paths, weights = _paths(betas)
    phases = np.concatenate([gammas, [0.0], -gammas[::-1]]) / 2
    angle = (paths * phases) @ paths.T
    branch: Complex = np.ones(len(paths), dtype=np.complex128)
    for _ in range(len(gammas)):
        branch = (np.cos(angle) @ (weights * branch)) ** (degree - 1)
    end = paths[:, len(gammas)] * weights * branch
    return float(0.5 + (0.5j * (end @ np.sin(angle) @ end)).real)


def gain_at_infinity(gammas: Angles, betas: Angles) -> float:
    """ν: the cut per edge of degree D → ∞ is 1/2 + ν/√D, with γ = 2·`gammas`/√D in `qaoa`'s units.

    The same ν is the energy per spin of the Sherrington–Kirkpatrick model
    (Farhi, Goldstone, Gutmann, Zhou, arXiv:1910.08187), whose ground state has 0.7632.
    """
    gammas, betas = checked(gammas, betas)
    p = len(gammas)
    paths, weights = _paths(betas)
    phases = np.concatenate([gammas, [0.0], -gammas[::-1]])
    turned = paths * phases
    correlation: Complex = np.zeros((2 * p + 1, 2 * p + 1), dtype=np.complex128)
    for step in range(p + 1):
        damping = (
            np.exp(-0.5 * np.einsum("aj,jk,ak->a", turned, correlation, turned)) if step else 1.0
        )
        correlation = np.einsum("aj,a,ak->jk", paths, weights * damping, paths)
    return float((0.5j * (phases * correlation[p] ** 2).sum()).real)


def _paths(betas: NDArray[np.float64]) -> tuple[NDArray[np.float64], Complex]:
    """The ±1 that a qubit passes through, (a_1 … a_p, a_0, a_−p … a_−1), and each path's weight."""
    p = len(betas)
    paths = np.array(list(itertools.product((1.0, -1.0), repeat=2 * p + 1)))
    weights: Complex = np.full(len(paths), 0.5, dtype=np.complex128)
    for k, beta in enumerate([*betas, *(-betas[::-1])]):
        stays = paths[:, k] == paths[:, k + 1]
        weights *= np.where(stays, np.cos(beta), 1j * np.sin(beta))
    return paths, weights
