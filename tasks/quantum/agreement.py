"""How far two partitions of the same people agree."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

Cells = Sequence[tuple[str, str, int]]
"""(label in the first, label in the second, how many)."""


def adjusted_rand(cells: Cells) -> float | None:
    """The adjusted Rand index, from counts; None: nobody is in both.

    Source: Hubert and Arabie, "Comparing partitions", J. Classification 2 (1985).
    """
    total = sum(n for _, _, n in cells)
    if total == 0:
        return None
    first: dict[str, int] = {}
    second: dict[str, int] = {}
    for a, b, n in cells:
        first[a] = first.get(a, 0) + n
        second[b] = second.get(b, 0) + n
    both = sum(comb(n, 2) for _, _, n in cells)
    rows, columns = (sum(comb(n, 2) for n in each.values()) for each in (first, second))
    expected = rows * columns / comb(total, 2) if total > 1 else 0.0
    most = (rows + columns) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def table(cells: Cells) -> list[dict[str, Any]]:
    """A row for each label of the first partition, a column for each of the second."""
    columns = sorted({b for _, b, _ in cells})
    found: dict[str, dict[str, Any]] = {}
    for a, b, n in cells:
        found.setdefault(a, {"": a, **dict.fromkeys(columns, 0)})[b] = n
    return list(found.values())
