"""The classical rivals: solvers of the same cut, each with the same wall time as the quantum one.

All take a problem and give an `Answer` whose value is the cut of its own bits, recounted. None is
handicapped: they start again and again until their time is over, and keep the best.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.quantum.engine.kernels import compiled, cut_values
from tasks.quantum.engine.problem import Bits, Floats, Problem

EXACT_UP_TO: Final = 22
"""Vertices up to which every partition is looked at."""
HYPERPLANES: Final = 64


@dataclass(frozen=True)
class Answer:
    """A partition that a solver found.

    Attributes:
        bits: int8, shape (n,).
        value: its cut.
        seconds: of wall time, all of the solver's.
        found_after: seconds until this partition was there.
        tries: starts, shots or roundings.
    """

    bits: Bits
    value: float
    seconds: float
    found_after: float
    tries: int


class _Keeper:
    """The best partition so far, and when it was found; with a cut of `enough` nothing is left to find."""

    def __init__(self, problem: Problem, enough: float = float("inf")) -> None:
        self._problem = problem
        self._enough = enough
        self._began = time.perf_counter()
        self._bits = np.zeros(problem.n, dtype=np.int8)
        self._value = 0.0
        self._after = 0.0
        self.tries = 0

    def over(self, seconds: float) -> bool:
        if self._value >= self._enough:
            return True
        return self.tries > 0 and time.perf_counter() - self._began >= seconds

    def offer(self, bits: NDArray[Any], tries: int = 1) -> None:
        self.tries += tries
        value = float(self._problem.cut(bits))
        if value > self._value:
            self._bits = np.asarray(bits, dtype=np.int8).copy()
            self._value = value
            self._after = time.perf_counter() - self._began

    def answer(self) -> Answer:
        seconds = time.perf_counter() - self._began
        return Answer(self._bits, self._value, seconds, self._after, self.tries)


def exact(problem: Problem) -> Answer:
    """The largest cut, by looking at all 2^(n−1) partitions.

    Raises:
        ValueError: there are more than `EXACT_UP_TO` vertices.
    """
    if problem.n > EXACT_UP_TO:
        raise ValueError(f"{problem.n} vertices: expected at most {EXACT_UP_TO} to try all cuts")
    keeper = _Keeper(problem)
    # Counted again, although the problem may have it: this is the price of being exact.
    values = cut_values(problem.weights)
    keeper.offer(problem.bits(int(np.argmax(values))), tries=values.size)
    return keeper.answer()


def local_search(
    problem: Problem, rng: np.random.Generator, seconds: float, enough: float = float("inf")
) -> Answer:
    """Single-flip ascent from random partitions, again and again, until a cut is `enough`."""
    keeper = _Keeper(problem, enough)
    while not keeper.over(seconds):
        bits = rng.integers(0, 2, size=(16, problem.n), dtype=np.int8)
        keeper.offer(_ascend(problem.weights, bits), tries=16)
    return keeper.answer()


@compiled
def _ascend(weights: Any, starts: Any) -> Any:
    """The best of the local optima that these partitions lead to."""
    n = weights.shape[0]
    best = starts[0].copy()
    best_value = -np.inf
    gain = np.empty(n)
    for row in range(starts.shape[0]):
        bits = starts[row].copy()
        value = 0.0
        for i in range(n):
            gain[i] = 0.0
            for j in range(n):
                if bits[i] == bits[j]:
                    gain[i] += weights[i, j]
                else:
                    gain[i] -= weights[i, j]
                    value += weights[i, j] / 2
        while True:
            flip = 0
            for i in range(1, n):
                if gain[i] > gain[flip]:
                    flip = i
            if gain[flip] <= 1e-12 * (1.0 + abs(value)):
                break
            value += gain[flip]
            bits[flip] = 1 - bits[flip]
            gain[flip] = -gain[flip]
            for j in range(n):
                if j != flip:
                    sign = 2.0 if bits[j] == bits[flip] else -2.0
                    gain[j] += sign * weights[flip, j]
        if value > best_value:
            best_value = value
            best = bits
    return best


def goemans_williamson(
    problem: Problem, rng: np.random.Generator, seconds: float, enough: float = float("inf")
) -> Answer:
    """Round the semidefinite relaxation by random hyperplanes.

    The relaxation is solved in its low-rank form, one vector at a time, which for rank above √(2n)
    has no bad optimum. Sources: Goemans and Williamson, J. ACM 42 (1995); Wang, Chang, Kolter,
    "The mixing method", arXiv:1706.00476.
    """
    keeper = _Keeper(problem, enough)
    rank = int(np.ceil(np.sqrt(2 * problem.n))) + 1
    vectors = rng.normal(size=(problem.n, rank))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    _relax(problem.weights, vectors, 1e-8, 500)
    while not keeper.over(seconds):
        bits = (vectors @ rng.normal(size=(rank, HYPERPLANES)) > 0).T.astype(np.int8)
        best = int(np.argmax(problem.cut(bits)))
        keeper.offer(bits[best], tries=HYPERPLANES)
    return keeper.answer()


@compiled
def _relax(weights: Any, vectors: Any, tolerance: float, sweeps: int) -> None:
    n, rank = vectors.shape
    toward = np.empty(rank)
    for _ in range(sweeps):
        moved = 0.0
        for i in range(n):
            toward[:] = 0.0
            for j in range(n):
                for k in range(rank):
                    toward[k] -= weights[i, j] * vectors[j, k]
            length = np.sqrt((toward * toward).sum())
            if length == 0.0:
                continue
            for k in range(rank):
                step = toward[k] / length - vectors[i, k]
                moved += step * step
                vectors[i, k] += step
        if moved < tolerance * n:
            break


def random_shots(problem: Problem, rng: np.random.Generator, shots: int) -> Answer:
    """The best of so many partitions drawn evenly: what sampling is worth by itself."""
    keeper = _Keeper(problem)
    bits = rng.integers(0, 2, size=(shots, problem.n), dtype=np.int8)
    best = int(np.argmax(problem.cut(bits)))
    keeper.offer(bits[best], tries=shots)
    return keeper.answer()


def k_means(
    problem: Problem, points: Floats, weights: Floats, rng: np.random.Generator, seconds: float,
    enough: float = float("inf"),
) -> Answer:  # fmt: skip
    """2-means of the coreset itself: points of shape (n, d), weights of shape (n,)."""
    from sklearn.cluster import KMeans

    keeper = _Keeper(problem, enough)
    while not keeper.over(seconds):
        if problem.n < 2 or len(np.unique(points, axis=0)) < 2:
            keeper.offer(np.zeros(problem.n))
            break
        found = KMeans(2, n_init=1, random_state=int(rng.integers(2**31)))
        keeper.offer(found.fit(points, sample_weight=weights).labels_)
    return keeper.answer()


def spectral(
    problem: Problem, points: Floats | None, rng: np.random.Generator, seconds: float
) -> Answer:
    """Of points: spectral clustering in two. Of a bare graph: signs of the extreme eigenvector.

    Source of the second: Delorme and Poljak, Math. Programming 62 (1993).
    """
    keeper = _Keeper(problem)
    if points is None or problem.n < 4 or len(np.unique(points, axis=0)) < 3:
        _, vectors = np.linalg.eigh(problem.weights)
        keeper.offer(vectors[:, 0] > 0)
        return keeper.answer()
    from sklearn.cluster import SpectralClustering

    from tasks.quantum.engine.graphs import affinity

    near = affinity(points)
    while not keeper.over(seconds):
        found = SpectralClustering(
            2, affinity="precomputed", n_init=1, random_state=int(rng.integers(2**31))
        )
        keeper.offer(found.fit(near).labels_)
        if keeper.tries >= 3:  # its eigenvectors do not change
            break
    return keeper.answer()


Solver = Callable[[np.random.Generator, float], Answer]


def rivals(
    problem: Problem, shots: int, points: Floats | None = None, weights: Floats | None = None,
    enough: float = float("inf"),
) -> dict[str, Solver]:  # fmt: skip
    """The solvers that this problem calls for, by name; each takes a generator and its seconds.

    Args:
        problem: the cut.
        shots: how many the quantum solver measures; random guessing gets as many.
        points: shape (n, d): the coreset, where the problem comes from one.
        weights: of its points, shape (n,).
        enough: a cut with which a solver stops, where the largest one is known.
    """
    found: dict[str, Solver] = {
        "local_search": lambda rng, seconds: local_search(problem, rng, seconds, enough),
        "goemans_williamson": lambda rng, seconds: goemans_williamson(
            problem, rng, seconds, enough
        ),
        "random": lambda rng, seconds: random_shots(problem, rng, shots),
        "spectral": lambda rng, seconds: spectral(problem, points, rng, seconds),
    }
    if points is not None:
        mass = np.ones(len(points)) if weights is None else weights
        found["k_means"] = lambda rng, seconds: k_means(problem, points, mass, rng, seconds, enough)
    return found
