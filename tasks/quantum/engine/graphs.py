"""Graphs whose largest cut splits points in two: by scatter, or by modularity of nearness."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from tasks.quantum.engine.problem import BadGraph, Floats

Objective = Literal["scatter", "modularity"]
NEIGHBOR: Final = 3


def squared_distances(points: Floats) -> Floats:
    """Between all pairs of points of shape (n, d): shape (n, n), exactly symmetric."""
    apart = points[:, None, :] - points[None, :, :]
    found: Floats = (apart**2).sum(axis=2)
    return found


def scatter(points: Floats, weights: Floats) -> Floats:
    """w_i w_j d_ij²: what it cuts is W·S − W₁·S₁ − W₂·S₂, with W the mass and S the sum of squares.

    So its best cut is near that of 2-means, which makes S₁ + S₂ small, without the masses: a solver
    of this cut, quantum or not, can do about as well as k-means and not better.
    """
    return np.outer(weights, weights) * squared_distances(points)


def affinity(points: Floats) -> Floats:
    """exp(−d²/σ_iσ_j), σ_i the distance to the third nearest point: shape (n, n), zero diagonal.

    Source: Zelnik-Manor and Perona, "Self-tuning spectral clustering", NIPS 2004.
    """
    squares = squared_distances(points)
    reach = np.sqrt(np.sort(squares, axis=1)[:, min(NEIGHBOR, len(points) - 1)])
    both = np.outer(reach, reach)
    # Points with three others in the same place are near to those and far from all else.
    with np.errstate(divide="ignore", invalid="ignore"):
        near: Floats = np.where(squares == 0, 1.0, np.exp(-squares / both))
    np.fill_diagonal(near, 0.0)
    return near


def modularity(points: Floats, weights: Floats) -> Floats:
    """k_i k_j / 2M − A_ij of the weighted affinity A: its best cut is the split of most modularity.

    Unlike scatter it follows shapes that are not convex. Source: Newman, PNAS 103 (2006).
    """
    near: Floats = np.outer(weights, weights) * affinity(points)
    degrees = near.sum(axis=1)
    total = degrees.sum()
    if total == 0:
        return np.zeros_like(near)
    made: Floats = np.outer(degrees, degrees) / total - near
    return made


def weights_of(objective: Objective, points: Floats, weights: Floats) -> Floats:
    """The matrix to cut, shape (n, n), scaled so that its largest entry is 1 (all zero stays so).

    Args:
        objective: `scatter` or `modularity`.
        points: shape (n, d), finite.
        weights: shape (n,), positive: subscribers of each point.

    Raises:
        BadGraph: a coordinate or a weight is not finite, or a weight is not positive.
    """
    if not (np.isfinite(points).all() and np.isfinite(weights).all() and (weights > 0).all()):
        raise BadGraph("a point or its weight is no finite positive number: look at the features")
    share = weights / weights.sum()
    made = scatter(points, share) if objective == "scatter" else modularity(points, share)
    np.fill_diagonal(made, 0.0)
    largest = float(np.abs(made).max(initial=0.0))
    if largest > 0:
        made = made / largest
    return made
