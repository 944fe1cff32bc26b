"""Clusters of a table by the fidelity kernel, beside the same clusters by k-means and by a classical kernel."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from tasks.errors import Permanent
from tasks.quantum.engine.fidelity import MOST_FEATURES, clusters
from tasks.quantum.engine.problem import Floats

MOST_ROWS: Final = 2_000
"""The kernel has a value for each pair of rows."""


def read(path: Path) -> Floats:
    """The columns of numbers of a CSV file, standardized: shape (rows, columns).

    Raises:
        Permanent: it is no such table; the message says what was expected.
    """
    try:
        frame = pd.read_csv(path, nrows=MOST_ROWS + 1).select_dtypes("number")
    except (OSError, ValueError) as fault:
        raise Permanent(f"{path.name} cannot be read as CSV: {fault}") from fault
    frame = frame.loc[:, frame.std() > 0]
    rows, columns = frame.shape
    if rows > MOST_ROWS or not 1 <= columns <= MOST_FEATURES:
        raise Permanent(
            f"{path.name} has {rows} rows and {columns} columns of numbers that vary: expected at"
            f" most {MOST_ROWS} rows, and 1 to {MOST_FEATURES} columns, a qubit each"
        )
    if frame.isna().to_numpy().any():
        name = frame.columns[frame.isna().any()][0]
        raise Permanent(f"{path.name}: column {name!r} has gaps: fill them, or take it out")
    values = frame.to_numpy(dtype=float)
    return np.asarray((values - values.mean(axis=0)) / values.std(axis=0))


def compared(rows: Floats, k: int, *, bandwidth: float, seed: int) -> list[dict[str, Any]]:
    """Divide the rows by three methods; how well, and how far each agrees with k-means.

    Returns:
        A row a method: clusters (sizes, largest first), silhouette (in the features, −1 … 1),
        inertia (mean squared distance to the own cluster's mean: what k-means minimizes) and
        agrees_with_k_means (adjusted Rand index), and labels.

    Raises:
        Permanent: not 2 … rows − 1 clusters.
    """
    from sklearn.cluster import KMeans, SpectralClustering
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    if not 2 <= k < len(rows):
        raise Permanent(f"{k} clusters of {len(rows)} rows: expected 2 to {len(rows) - 1}")
    spectral = SpectralClustering(k, affinity="rbf", random_state=seed)
    made = {
        "fidelity kernel": clusters(rows, k, bandwidth=bandwidth, seed=seed),
        "k-means": KMeans(k, n_init=10, random_state=seed).fit_predict(rows),
        "rbf kernel": spectral.fit_predict(rows),
    }
    told = []
    for name, labels in made.items():
        sizes = sorted(Counter(labels.tolist()).values(), reverse=True)
        means = np.array([rows[labels == each].mean(axis=0) for each in labels])
        told.append(
            {
                "method": name,
                "clusters": sizes,
                "silhouette": float(silhouette_score(rows, labels)) if len(sizes) > 1 else None,
                "inertia": float(((rows - means) ** 2).sum(axis=1).mean()),
                "agrees_with_k_means": float(adjusted_rand_score(made["k-means"], labels)),
                "labels": labels.tolist(),
            }
        )
    return told
