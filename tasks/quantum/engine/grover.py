"""Grover search and Dürr–Høyer minimum search: success, schedules and query counts, without a circuit.

The circuits themselves are in `tasks.quantum.circuits`; here is what they must agree with. On a
simulator such a search never saves wall time, since each query computes every value: what is
reported is the number of queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from tasks.quantum.engine.problem import Floats

GROWTH = 6 / 5
"""By which the bound of the random number of iterations grows after a miss."""


def grover_success(n: int, marked: int | Collection[int], k: int) -> float:
    """Probability that k Grover iterations over n qubits end in a marked state: sin²((2k+1)θ).

    Args:
        n: qubits.
        marked: how many states are marked, or which ones (0 … 2ⁿ−1).
        k: iterations.

    Source: Boyer, Brassard, Høyer, Tapp, arXiv:quant-ph/9605034, section 3; sin²θ = M/N.

    Raises:
        ValueError: no such number of states, qubits or iterations.
    """
    if n < 1 or k < 0:
        raise ValueError(
            f"n = {n}, k = {k}: expected at least one qubit and no negative iterations"
        )
    size = 1 << n
    if isinstance(marked, int):
        count = marked
    else:
        states = set(marked)
        if any(not 0 <= state < size for state in states):
            raise ValueError(f"a marked state is none of 0 … {size - 1}")
        count = len(states)
    if not 0 <= count <= size:
        raise ValueError(f"{count} marked states: expected 0 … {size}")
    angle = math.asin(math.sqrt(count / size))
    return math.sin((2 * k + 1) * angle) ** 2


def best_iterations(n: int, marked: int) -> int:
    """The number of iterations after which the first maximum of `grover_success` is nearest."""
    angle = math.asin(math.sqrt(marked / (1 << n)))
    return max(0, round(math.pi / (4 * angle) - 0.5))


@dataclass(frozen=True)
class Minimum:
    """The least value that was found.

    Attributes:
        index, value: where and what.
        queries: iterations of the oracle, and one for each value that was looked at.
        expected: bound of Dürr and Høyer on the expected queries, 22.5 √N.
        thresholds: the values that were thresholds, falling.
    """

    index: int
    value: float
    queries: int
    expected: float
    thresholds: tuple[float, ...]


Search = Callable[[Floats, float, int, np.random.Generator], int]
"""(values, threshold, iterations, rng) → the state measured after so many Grover iterations whose
oracle marks values below the threshold."""


def minimum_search(
    values: Floats, rng: np.random.Generator, search: Search, *, budget: float | None = None
) -> Minimum:
    """Dürr–Høyer: Grover search for something less than the least so far, again and again.

    Args:
        values: shape (2ⁿ,).
        rng: of the first threshold, the numbers of iterations and the measurements.
        search: runs the circuit.
        budget: queries after which it ends; by default 22.5 √N, with which at least half of all
            runs have the minimum (Dürr and Høyer, arXiv:quant-ph/9607014).
    """
    size = len(values)
    if size < 2 or size & (size - 1):
        raise ValueError(f"{size} values: expected a power of two, at least 2")
    expected = 22.5 * math.sqrt(size)
    limit = expected if budget is None else budget
    index = int(rng.integers(size))
    queries, bound = 1, 1.0
    thresholds = [float(values[index])]
    while queries < limit:
        iterations = int(rng.integers(math.ceil(bound)))
        found = search(values, float(values[index]), iterations, rng)
        queries += iterations + 1
        if values[found] < values[index]:
            index, bound = found, 1.0
            thresholds.append(float(values[index]))
        else:
            bound = min(GROWTH * bound, math.sqrt(size))
    return Minimum(index, float(values[index]), queries, expected, tuple(thresholds))
