"""A weighted graph as the problem of its largest cut: checked, and as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import Permanent
from tasks.quantum.engine import kernels

if TYPE_CHECKING:
    import networkx as nx

Floats = NDArray[np.float64]
Bits = NDArray[np.int8]

LARGEST: Final = 24
"""Most vertices of a problem: 2^23 amplitudes, twice 64 MiB a state."""
HEAVIEST: Final = 1e150  # above it sums of squares are no numbers any more


class BadGraph(Permanent):
    """A graph that cannot be cut, and why."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The largest cut of a weighted graph.

    Attributes:
        weights: symmetric float64, shape (n, n), zero diagonal. Negative weights are fine.
        names: what each vertex is called where it came from.
    """

    weights: Floats
    names: tuple[Any, ...]

    @property
    def n(self) -> int:
        """How many vertices, and qubits."""
        return len(self.weights)

    @cached_property
    def scale(self) -> float:
        """Root of the mean over vertices of Σ_j w_ij²: √degree of an unweighted regular graph.

        By it γ is transferred between graphs (Shaydulin et al., arXiv:2201.11785).
        """
        largest = float(np.abs(self.weights).max())
        if largest == 0:
            return 1.0
        # Divided first, so that tiny weights do not vanish when they are squared.
        return largest * float(np.sqrt(((self.weights / largest) ** 2).sum(axis=1).mean()))

    @cached_property
    def diagonal(self) -> Floats:
        """The cut of each bit string whose last bit is 0: shape (2^(n−1),)."""
        values: Floats = kernels.cut_values(self.weights)
        return values

    def cut(self, bits: NDArray[Any]) -> Floats:
        """Weight cut by partitions: shape (..., n) of 0 and 1 → shape (...)."""
        spins = 1.0 - 2.0 * np.asarray(bits, dtype=np.float64)
        total = self.weights.sum() / 4
        value: Floats = total - np.einsum("...i,ij,...j->...", spins, self.weights, spins) / 4
        return value

    def bits(self, index: NDArray[np.int64] | int) -> Bits:
        """The partition of an entry of `diagonal`: shape (..., n)."""
        places = np.arange(self.n, dtype=np.int64)
        found: Bits = ((np.asarray(index)[..., None] >> places) & 1).astype(np.int8)
        return found


def problem_of(graph: nx.Graph[Any], *, weight: str = "weight") -> Problem:
    """The problem of a networkx graph; an edge without the attribute weighs 1.

    Raises:
        BadGraph: it is directed, has no vertex or too many, or a weight is no finite number.
    """
    if graph.is_directed():
        raise BadGraph("the graph is directed: a cut has no direction; pass graph.to_undirected()")
    names = tuple(graph.nodes)
    place = {name: at for at, name in enumerate(names)}
    _check_size(len(names))
    weights = np.zeros((len(names), len(names)))
    for u, v, data in graph.edges(data=True):
        given = data.get(weight)
        try:
            value = 1.0 if given is None else float(given)
        except (TypeError, ValueError):
            raise BadGraph(
                f"edge {u!r}–{v!r} weighs {given!r}: expected a number; correct it"
            ) from None
        if not np.isfinite(value):
            raise BadGraph(f"edge {u!r}–{v!r} weighs {value}: expected a finite number; correct it")
        if u != v:  # a loop is never cut
            weights[place[u], place[v]] += value
            weights[place[v], place[u]] += value
    return problem_from(weights, names)


def problem_from(weights: NDArray[Any], names: tuple[Any, ...] | None = None) -> Problem:
    """The problem of a symmetric matrix of weights, shape (n, n).

    Raises:
        BadGraph: its shape, its size, or a value that is no finite number.
    """
    matrix = np.array(weights, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise BadGraph(f"weights of shape {matrix.shape}: expected a square matrix")
    _check_size(len(matrix))
    if not np.isfinite(matrix).all():
        i, j = np.argwhere(~np.isfinite(matrix))[0]
        raise BadGraph(
            f"the weight between {i} and {j} is {matrix[i, j]}: expected a finite number; look for a"
            " missing feature"
        )
    if float(np.abs(matrix).max(initial=0.0)) > HEAVIEST:
        raise BadGraph(f"a weight is above {HEAVIEST:g}: its squares are no numbers; scale them")
    if not np.allclose(matrix, matrix.T, rtol=1e-9, atol=0):
        raise BadGraph("the weights are not symmetric: expected w[i, j] == w[j, i]")
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 0.0)
    return Problem(matrix, names if names is not None else tuple(range(len(matrix))))


def _check_size(n: int) -> None:
    if n == 0:
        raise BadGraph("the graph has no vertex: expected at least one")
    if n > LARGEST:
        raise BadGraph(
            f"the graph has {n} vertices: expected at most {LARGEST}, one qubit each; take a coreset"
            " of fewer points, or cut it in parts"
        )
