"""The largest cut of a small graph by Dürr and Høyer's search with Grover circuits, and its price.

A query is one look at a cut, by an oracle or by us. Looking at every cut once takes 2ⁿ⁻¹ of them;
the search takes about 22.5 √2ⁿ⁻¹ at most on the average. A simulator computes every value in each
query, so fewer queries save no time here.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tasks.errors import Permanent
from tasks.quantum.circuits import grover_search
from tasks.quantum.engine.grover import minimum_search
from tasks.quantum.engine.problem import Problem

LARGEST: Final = 11
"""Vertices: the first one's side is given, each other one is a qubit."""


def largest_cut(problem: Problem, *, seed: int, runs: int) -> dict[str, Any]:
    """Search with `runs` seeds, and look at every cut beside it.

    Returns:
        vertices, qubits, optimum, every_cut (queries of looking at all of them), bound (of the
        expected queries), found (share of the runs with the optimum), queries (mean), runs (each:
        seed, value, queries, thresholds) and sides of the best one.

    Raises:
        Permanent: fewer than two vertices, or more than `LARGEST`.
    """
    if not 2 <= problem.n <= LARGEST:
        raise Permanent(
            f"{problem.n} vertices: a search by circuits takes 2 to {LARGEST}; `dripfleet quantum"
            " solve` takes larger graphs"
        )
    values = -problem.diagonal
    rows: list[dict[str, Any]] = []
    for each in range(seed, seed + runs):
        found = minimum_search(values, np.random.default_rng(each), grover_search)
        rows.append(
            {
                "seed": each,
                "value": -found.value,
                "queries": found.queries,
                "thresholds": [-value for value in found.thresholds],
                "index": found.index,
            }
        )
    best = max(rows, key=lambda row: row["value"])
    optimum = float(-values.min())
    slack = 1e-9 * max(abs(optimum), 1.0)
    bits = problem.bits(np.array([best.pop("index")]))[0]
    for row in rows:
        row.pop("index", None)
    return {
        "vertices": problem.n,
        "qubits": problem.n - 1,
        "optimum": optimum,
        "every_cut": len(values),
        "bound": 22.5 * len(values) ** 0.5,
        "found": float(np.mean([row["value"] >= optimum - slack for row in rows])),
        "queries": float(np.mean([row["queries"] for row in rows])),
        "sides": {str(n): int(side) for n, side in zip(problem.names, bits, strict=True)},
        "runs": rows,
    }
