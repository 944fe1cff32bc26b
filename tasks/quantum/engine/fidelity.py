"""The fidelity kernel of the ZZ feature map, and clusters by it.

|Φ(x)⟩ = U(x)H U(x)H|0⟩ on one qubit a feature, U(x) = exp(i Σ_S φ_S(x) Π_{q∈S} Z_q) with
φ_q = x_q and φ_qr = (π − x_q)(π − x_r), over all pairs.
Source: Havlíček et al., "Supervised learning with quantum-enhanced feature spaces", Nature 567
(2019), arXiv:1804.11326.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import Permanent
from tasks.quantum.engine.problem import Floats

REPETITIONS: Final = 2
MOST_FEATURES: Final = 16


def zz_kernel(X: NDArray[Any], Y: NDArray[Any] | None = None, *, bandwidth: float = 1.0) -> Floats:
    """|⟨Φ(x)|Φ(y)⟩|² for all pairs of rows: shape (len(X), len(Y)), values in [0, 1].

    Args:
        X: shape (rows, features), radians.
        Y: the same; X where it is not given.
        bandwidth: factor on the features; 0.1–0.3 for standardized ones, or all fidelities
            between different points vanish (Shaydulin and Wild, arXiv:2111.05451).

    Raises:
        Permanent: features that are not finite, differ in number, or are too many.
    """
    left = states(X, bandwidth=bandwidth)
    right = left if Y is None else states(Y, bandwidth=bandwidth)
    if left.shape[1] != right.shape[1]:
        raise Permanent("X and Y have different numbers of features: expected the same")
    fidelity: Floats = np.abs(left @ right.conj().T) ** 2
    return np.clip(fidelity, 0.0, 1.0)


def states(X: NDArray[Any], *, bandwidth: float = 1.0) -> NDArray[np.complex128]:
    """|Φ(x)⟩ of each row: shape (rows, 2^features); bit q of the index is feature q."""
    rows = np.asarray(X, dtype=np.float64)
    if rows.ndim != 2 or not 1 <= rows.shape[1] <= MOST_FEATURES:
        raise Permanent(
            f"shape {rows.shape}: expected (rows, features), 1 … {MOST_FEATURES} of these"
        )
    if not np.isfinite(rows).all():
        raise Permanent("a feature is no finite number: expected radians")
    rows = rows * bandwidth
    n = rows.shape[1]
    index = np.arange(1 << n)
    spins = 1.0 - 2.0 * ((index[:, None] >> np.arange(n)) & 1)
    phase = rows @ spins.T
    for q in range(n):
        for r in range(q):
            pair = (np.pi - rows[:, q]) * (np.pi - rows[:, r])
            phase += pair[:, None] * (spins[:, q] * spins[:, r])
    turned = np.exp(1j * phase)
    state = np.zeros((len(rows), 1 << n), dtype=np.complex128)
    state[:, 0] = 1.0
    for _ in range(REPETITIONS):
        state = _hadamard(state, n) * turned
    return state


def clusters(
    X: NDArray[Any], k: int, *, weights: Floats | None = None, bandwidth: float = 0.2, seed: int = 0
) -> NDArray[np.int64]:
    """Labels 0 … k−1 of the rows by spectral clustering on the fidelity kernel: shape (rows,).

    Args:
        X: shape (rows, features), standardized.
        k: clusters; no more than rows.
        weights: shape (rows,): how many each row stands for.
        bandwidth: of `zz_kernel`.
        seed: of the k-means that reads the eigenvectors.
    """
    from sklearn.cluster import KMeans

    kernel = zz_kernel(X, bandwidth=bandwidth)
    mass = np.ones(len(kernel)) if weights is None else np.asarray(weights, dtype=np.float64)
    near = kernel * np.outer(mass, mass)
    degrees = near.sum(axis=1)
    _, vectors = np.linalg.eigh(near / np.sqrt(np.outer(degrees, degrees)))
    embedded = vectors[:, -k:] / np.sqrt(degrees)[:, None]
    embedded /= np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), 1e-12)
    found = KMeans(k, n_init=10, random_state=seed).fit(embedded, sample_weight=mass)
    return np.asarray(found.labels_, dtype=np.int64)


def _hadamard(state: NDArray[np.complex128], n: int) -> NDArray[np.complex128]:
    """H on every qubit of each row."""
    for q in range(n):
        halves = state.reshape(len(state), -1, 2, 1 << q)
        up, down = halves[:, :, 0], halves[:, :, 1]
        mixed = np.stack([up + down, up - down], axis=2) / np.sqrt(2)
        state = mixed.reshape(len(state), -1)
    return state
