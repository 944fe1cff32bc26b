"""QAOA for the largest cut: ⟨C⟩ of its circuit, the gradient by its angles, and samples.

Convention: the circuit begins in |+⟩ⁿ and applies, for k = 1 … p, exp(−iγₖC) and then exp(−iβₖΣX),
where C = Σ w(1−ZZ)/2 is the weight cut. Source: Farhi, Goldstone, Gutmann, arXiv:1411.4028.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum.engine import kernels
from tasks.quantum.engine.problem import Floats, Problem, problem_of

if TYPE_CHECKING:
    import networkx as nx

Angles = Sequence[float] | Floats


def qaoa_expectation(graph: nx.Graph[Any], gammas: Angles, betas: Angles) -> float:
    """⟨C⟩ of the QAOA circuit of a graph, in units of its weights.

    Args:
        graph: undirected; edges may carry `weight`, else they weigh 1.
        gammas: p angles, in radians per unit of weight.
        betas: as many, in radians.

    Raises:
        BadGraph: the graph is no problem that can be simulated; see `problem_of`.
        ValueError: the two lists differ in length, or an angle is not finite.
    """
    return Qaoa(problem_of(graph)).expectation(gammas, betas)


class Qaoa:
    """The circuits of one problem, simulated on the half of the state that is not its mirror.

    Holds its buffers, so that an evaluation allocates nothing; not for two threads at once.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._cost = problem.diagonal
        size = self._cost.size
        self._re, self._im = np.empty(size), np.empty(size)
        self._cosine, self._sine = np.empty(size), np.empty(size)
        self._lre: Floats | None = None
        self._lim: Floats | None = None
        self.evaluations = 0

    def expectation(self, gammas: Angles, betas: Angles) -> float:
        """⟨C⟩ at these angles (p each)."""
        self._run(*checked(gammas, betas))
        return float(kernels.mean(self._re, self._im, self._cost))

    def gradient(self, gammas: Angles, betas: Angles) -> tuple[float, Floats, Floats]:
        """⟨C⟩, and its derivatives by γ and β (shape (p,) each): one pass forward, one back.

        Source: the adjoint method of Jones and Gacon, arXiv:2009.02823.
        """
        gammas, betas = checked(gammas, betas)
        re, im = self._re, self._im
        self._run(gammas, betas)
        value = float(kernels.mean(re, im, self._cost))
        if self._lre is None or self._lim is None:
            self._lre, self._lim = np.empty_like(re), np.empty_like(im)
        lre, lim = self._lre, self._lim
        np.multiply(re, self._cost, out=lre)
        np.multiply(im, self._cost, out=lim)
        by_gamma, by_beta = np.empty(len(gammas)), np.empty(len(betas))
        for k in reversed(range(len(gammas))):
            by_beta[k] = 2 * kernels.mix_back(re, im, lre, lim, -betas[k])
            by_gamma[k] = 2 * kernels.overlap(re, im, lre, lim, self._cost)
            if k:  # what stands before the first phase is not needed
                kernels.angles_of(self._cost, gammas[k], self._cosine, self._sine)
                kernels.turn_back(re, im, self._cosine, self._sine)
                kernels.turn_back(lre, lim, self._cosine, self._sine)
        self.evaluations += 1
        return value, by_gamma, by_beta

    def probabilities(self, gammas: Angles, betas: Angles) -> Floats:
        """Of each partition (a bit string and its mirror together), by `Problem.diagonal`'s index."""
        self._run(*checked(gammas, betas))
        found = self._re**2 + self._im**2
        found /= found.sum()
        return found

    def sample(
        self, gammas: Angles, betas: Angles, shots: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Indices into `Problem.diagonal` of `shots` measurements."""
        cumulated = np.cumsum(self.probabilities(gammas, betas))
        drawn = np.searchsorted(cumulated, rng.random(shots) * cumulated[-1], side="right")
        last: NDArray[np.int64] = np.minimum(drawn, cumulated.size - 1).astype(np.int64)
        return last

    def _run(self, gammas: Floats, betas: Floats) -> None:
        re, im = self._re, self._im
        amplitude = re.size**-0.5
        if len(gammas) == 0:
            re.fill(amplitude)
            im.fill(0.0)
        for k, (gamma, beta) in enumerate(zip(gammas, betas, strict=True)):
            kernels.angles_of(self._cost, gamma, self._cosine, self._sine)
            if k == 0:
                np.multiply(self._cosine, amplitude, out=re)
                np.multiply(self._sine, -amplitude, out=im)
            else:
                kernels.turn(re, im, self._cosine, self._sine)
            kernels.mix(re, im, beta)
        self.evaluations += 1


def checked(gammas: Angles, betas: Angles) -> tuple[Floats, Floats]:
    """Both as float64 arrays of one length.

    Raises:
        ValueError: they are not.
    """
    gammas, betas = np.asarray(gammas, dtype=np.float64), np.asarray(betas, dtype=np.float64)
    if gammas.ndim != 1 or gammas.shape != betas.shape:
        raise ValueError(
            f"{gammas.shape} γ and {betas.shape} β: expected two lists of the same length p"
        )
    if not (np.isfinite(gammas).all() and np.isfinite(betas).all()):
        raise ValueError("an angle is no finite number: expected radians")
    return gammas, betas
