"""What a segment is, in words and figures that a marketer can use, against the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.quantum.engine.problem import Floats

NEVER_BOUGHT: Final = "never-bought"
"""The label of those who have no purchase: they are in no cluster."""
MANY: Final = 1.5
FEW: Final = 1 / MANY


@dataclass(frozen=True)
class Sums:
    """Sums of features by group, to which batches of people add.

    Attributes:
        n: shape (groups,).
        sums: shape (groups, 4): of `features.COLUMNS`.
    """

    n: NDArray[np.int64]
    sums: Floats

    @classmethod
    def none(cls, groups: int) -> Sums:
        """Nobody yet."""
        return cls(np.zeros(groups, dtype=np.int64), np.zeros((groups, 4)))

    def plus(self, labels: NDArray[np.int64], values: Floats) -> Sums:
        """With some more people: their groups, shape (n,), and features, shape (n, 4)."""
        sums = self.sums.copy()
        np.add.at(sums, labels, values)
        return Sums(self.n + np.bincount(labels, minlength=len(self.n)), sums)


def label(mean: Floats, whole: Floats) -> str:
    """A short name: what its people are worth, and how long they have been quiet, beside everybody.

    Args:
        mean: shape (4,): recency, frequency, monetary, engagement of the segment's mean member.
        whole: the same of everybody.
    """
    worth = float(mean[2] / whole[2]) if whole[2] > 0 else float(mean[1] / max(whole[1], 1e-12))
    quiet = float(mean[0] / whole[0]) if whole[0] > 0 else 1.0
    value = "high-value" if worth >= MANY else "low-value" if worth <= FEW else "mid-value"
    since = "recent" if quiet <= FEW else "lapsed" if quiet >= MANY**0.5 else "steady"
    return f"{value}-{since}"


def labels(sums: Sums) -> list[str]:
    """A name for each group, no two the same; of two alike the more valuable one comes first."""
    whole = sums.sums.sum(axis=0) / max(int(sums.n.sum()), 1)
    means = sums.sums / np.maximum(sums.n, 1)[:, None]
    named = [label(mean, whole) for mean in means]
    order = sorted(range(len(named)), key=lambda g: (-means[g, 2], g))
    seen: dict[str, int] = {}
    for group in order:
        name = named[group]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            named[group] = f"{name}-{seen[name]}"
    return named


def described(named: Sequence[str], sums: Sums, never: int) -> list[dict[str, Any]]:
    """A row for each segment, the most valuable first; means, and ratios to the mean of all buyers.

    Args:
        named: its labels.
        sums: of the groups, in the same order.
        never: how many never bought.
    """
    buyers = int(sums.n.sum())
    everybody = max(buyers + never, 1)
    whole = sums.sums.sum(axis=0) / max(buyers, 1)
    rows: list[dict[str, Any]] = []
    for group, name in enumerate(named):
        n = int(sums.n[group])
        mean = sums.sums[group] / max(n, 1)
        rows.append(
            {
                "label": name,
                "subscribers": n,
                "share": n / everybody,
                "recency_days": float(mean[0]),
                "frequency": float(mean[1]),
                "value": float(mean[2]),
                "engagement": float(mean[3]),
                "against_the_whole": _against(mean, whole),
                "in_words": in_words(n / everybody, mean, whole),
            }
        )
    rows.sort(key=lambda row: -row["value"])
    if never:
        rows.append(
            {
                "label": NEVER_BOUGHT,
                "subscribers": never,
                "share": never / everybody,
                "recency_days": None,
                "frequency": 0.0,
                "value": 0.0,
                "engagement": None,
                "against_the_whole": {},
                "in_words": f"{never / everybody:.0%} of all: no purchase so far.",
            }
        )
    return rows


def in_words(share: float, mean: Floats, whole: Floats) -> str:
    """One sentence about a segment."""
    days, purchases, value = (float(each) for each in mean[:3])
    parts = [
        f"{share:.0%} of all",
        f"bought {purchases:.1f} times ({_times(purchases, whole[1])})",
        f"last {days:.0f} days ago ({_times(days, whole[0])})",
        f"worth {value:.2f} ({_times(value, whole[2])})",
    ]
    return ", ".join(parts) + "."


def _times(value: float, whole: float) -> str:
    if whole <= 0:
        return "as everybody"
    return f"{value / whole:.1f}× the mean"


def _against(mean: Floats, whole: Floats) -> Mapping[str, float | None]:
    names = ("recency_days", "frequency", "value", "engagement")
    return {
        name: float(a / b) if b > 0 else None for name, a, b in zip(names, mean, whole, strict=True)
    }
