"""Several arms against one: p-values that count how often was asked (Holm 1979)."""

from __future__ import annotations

from collections.abc import Mapping


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Return adjusted p-values under their names: one below α is a finding of the whole family at α."""
    found: dict[str, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(values, key=lambda each: (values[each], each))):
        least = max(least, min(1.0, (len(values) - rank) * values[name]))
        found[name] = least
    return {name: found[name] for name in values}
