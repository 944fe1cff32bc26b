"""A few weighted points in place of all subscribers: the size of what a quantum computer can take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import Permanent
from tasks.quantum.engine.problem import Floats

BATCH = 8_192


@dataclass(frozen=True, eq=False)
class Coreset:
    """Weighted points in standardized coordinates.

    Attributes:
        points: shape (m, d), standardized.
        masses: shape (m,): how many rows each stands for; all positive.
        center, spread: shape (d,): `standardize` takes them away and divides; a column that never
            varies has spread 0 and becomes 0.
        explained: share of the rows' sum of squares that is between the points, 0 … 1.
        rows: how many it stands for.
    """

    points: Floats
    masses: Floats
    center: Floats
    spread: Floats
    explained: float
    rows: int

    def standardize(self, values: Floats) -> Floats:
        """Rows of features, shape (n, d), in the coordinates of the points."""
        varies = self.spread > 0
        found: Floats = np.where(
            varies, (values - self.center) / np.where(varies, self.spread, 1), 0
        )
        return found

    def nearest(self, values: Floats) -> NDArray[np.int64]:
        """The point that each row of features is nearest to: shape (n,)."""
        rows = self.standardize(values)
        # |a − b|² without |a|², which is the same for all points.
        near = (self.points**2).sum(axis=1) - 2 * rows @ self.points.T
        found: NDArray[np.int64] = np.argmin(near, axis=1).astype(np.int64)
        return found

    def as_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "points": self.points.tolist(),
            "masses": self.masses.tolist(),
            "center": self.center.tolist(),
            "spread": self.spread.tolist(),
            "explained": self.explained,
            "rows": self.rows,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Coreset:
        """What `as_json` stored."""
        points, masses, center, spread = (
            np.array(value[name], dtype=float) for name in ("points", "masses", "center", "spread")
        )
        return cls(points, masses, center, spread, float(value["explained"]), int(value["rows"]))


def reduce(values: Floats, m: int, seed: int) -> Coreset:
    """At most m points for rows of features, by mini-batch k-means.

    Args:
        values: shape (n, d), finite.
        m: points at most; fewer where there are fewer different rows.
        seed: of the k-means.

    Raises:
        Permanent: there is no row, or a feature is no finite number.

    Source: Sculley, "Web-scale k-means clustering", WWW 2010.
    """
    if len(values) == 0:
        raise Permanent(
            "nobody bought anything before the cutoff: expected at least one subscriber with a"
            " purchase; import events, or choose a later cutoff"
        )
    if not np.isfinite(values).all():
        raise Permanent("a feature is no finite number: look for odd amounts in the events")
    from sklearn.cluster import MiniBatchKMeans

    center, spread = values.mean(axis=0), values.std(axis=0)
    # What differs by rounding alone does not vary.
    spread = np.where(spread > 1e-12 * (1 + np.abs(center)), spread, 0.0)
    blank = Coreset(np.zeros((1, values.shape[1])), np.ones(1), center, spread, 0.0, len(values))
    rows = blank.standardize(values)
    different = np.unique(rows[: 4 * BATCH], axis=0)
    if len(different) < m:
        different = np.unique(rows, axis=0)
    if len(different) <= m:
        points = different
    else:
        model = MiniBatchKMeans(m, batch_size=BATCH, n_init=3, max_iter=50, random_state=seed)
        points = model.fit(rows).cluster_centers_.astype(np.float64)
    found = Coreset(points, np.ones(len(points)), center, spread, 0.0, len(values))
    labels = found.nearest(values)
    taken = np.bincount(labels, minlength=len(points))
    # Each point moves to the middle of its own: what it stands for is then exactly its mean.
    sums = np.zeros_like(points)
    np.add.at(sums, labels, rows)
    kept = taken > 0
    points, masses = sums[kept] / taken[kept, None], taken[kept].astype(float)
    order = np.lexsort(points.T)
    points, masses = points[order], masses[order]
    total = float((rows**2).sum())
    explained = float((masses[:, None] * points**2).sum() / total) if total > 0 else 1.0
    return Coreset(points, masses, center, spread, min(explained, 1.0), len(values))
