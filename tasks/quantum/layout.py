"""QAOA's terms on a device whose qubits touch few others: where each vertex sits, and who swaps when.

The ZZ terms of a layer commute, so any order will do, and the search is free to execute whatever is
next to each other. Two-qubit gates that this takes, in any native gate (CZ, Sycamore, √iSWAP alike:
the Weyl chamber's corners cost 2, 3 and 3): a ZZ term 2, a swap 3, a ZZ term and a swap of the same
pair together 3. So a swap is nearly free right where its pair has just met.

Layers after the first walk the same way back and forth: no search, and the same count each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import networkx as nx
import numpy as np

from tasks.errors import Permanent

Pair = tuple[int, int]
COST: Final = {"zz": 2, "swap": 3, "both": 3}


@dataclass(frozen=True)
class Step:
    """Something that happens on two neighboring places.

    Attributes:
        kind: `zz`, `swap`, or `both` of them.
        places: physical.
        pair: the vertices that sit there before it.
    """

    kind: Literal["zz", "swap", "both"]
    places: Pair
    pair: Pair


@dataclass(frozen=True)
class Layout:
    """One layer, routed.

    Attributes:
        begin: place of each vertex before it.
        end: and after it.
        steps: in order.
    """

    begin: tuple[int, ...]
    end: tuple[int, ...]
    steps: tuple[Step, ...]

    @property
    def gates(self) -> int:
        """Two-qubit gates of it."""
        return sum(COST[step.kind] for step in self.steps)

    def layers(self, p: int) -> list[tuple[Step, ...]]:
        """The steps of p layers, forth and back."""
        back = tuple(
            Step(step.kind, step.places, step.pair if step.kind == "zz" else step.pair[::-1])
            for step in reversed(self.steps)
        )
        return [self.steps if k % 2 == 0 else back for k in range(p)]

    def ends_at(self, p: int) -> tuple[int, ...]:
        """Place of each vertex after p layers."""
        return self.end if p % 2 else self.begin


def route(
    n: int, terms: Iterable[Pair], coupling: nx.Graph[int], *, seed: int = 0, tries: int = 60
) -> Layout:
    """Place n vertices and order their terms for few two-qubit gates.

    Args:
        n: vertices.
        terms: pairs that need a ZZ each.
        coupling: which places touch; connected where it is used.
        seed: of the search.
        tries: first placements that are tried; each is bettered by annealing, then routed there
            and back as SABRE does (Li, Ding, Xie, arXiv:1809.02573).

    Raises:
        Permanent: the device has too few connected places.
    """
    wanted = {(min(a, b), max(a, b)) for a, b in terms}
    search = _Search(n, wanted, coupling, np.random.default_rng(seed))
    best: Layout | None = None
    for _ in range(tries):
        placed = search.placement()
        for _ in range(3):
            found = search.walk(placed)
            if best is None or (found.gates, len(found.steps)) < (best.gates, len(best.steps)):
                best = found
            placed = list(found.end)
        if best is not None and best.gates == COST["zz"] * len(wanted):
            break
    assert best is not None, "tries is positive"
    return best


class _Search:
    def __init__(
        self, n: int, terms: set[Pair], coupling: nx.Graph[int], rng: np.random.Generator
    ) -> None:
        regions = [c for c in nx.connected_components(coupling) if len(c) >= n]
        if not regions:
            raise Permanent(
                f"the device has no {n} connected qubits: expected a smaller problem; take a coreset"
                " of fewer points"
            )
        self._n, self._terms, self._rng = n, terms, rng
        self._graph = nx.Graph(coupling.subgraph(max(regions, key=len)))
        self._places = sorted(self._graph)
        self._distance = {a: dict(d) for a, d in nx.all_pairs_shortest_path_length(self._graph)}
        self._partners: list[list[int]] = [[] for _ in range(n)]
        for a, b in terms:
            self._partners[a].append(b)
            self._partners[b].append(a)

    def placement(self) -> list[int]:
        """A compact region, its vertices moved about until their terms are short."""
        rng = self._rng
        region = self._region()
        rim = {q for place in region for q in self._graph[place]} - set(region)
        spots: list[int] = [*rng.permutation(region).tolist(), *sorted(rim)]
        # The first n spots are taken; the rest are free neighbors of the region.
        at = {spot: v for v, spot in enumerate(spots[: self._n])}
        place = spots[: self._n]
        heat, steps = 2.0, 60 * self._n
        for k in range(steps):
            temperature = heat * (1 - k / steps) + 1e-3
            v = int(rng.integers(self._n))
            to = spots[int(rng.integers(len(spots)))]
            other = at.get(to)
            if to == place[v]:
                continue
            before = self._length(v, place) + (0 if other is None else self._length(other, place))
            old = place[v]
            place[v] = to
            if other is not None:
                place[other] = old
            after = self._length(v, place) + (0 if other is None else self._length(other, place))
            if after > before and rng.random() >= math.exp((before - after) / temperature):
                place[v] = old
                if other is not None:
                    place[other] = to
                continue
            at[to] = v
            if other is None:
                del at[old]
            else:
                at[old] = other
        return place

    def walk(self, placed: Sequence[int]) -> Layout:
        """Execute what touches, else swap what helps most, until every term is done."""
        place, at = list(placed), {spot: v for v, spot in enumerate(placed)}
        left = set(self._terms)
        steps: list[Step | None] = []
        met: dict[Pair, int] = {}  # pair → its ZZ step, while neither has moved since
        since: Pair | None = None
        while True:
            for a, b in sorted(left):
                if self._graph.has_edge(place[a], place[b]):
                    met[a, b] = len(steps)
                    steps.append(Step("zz", (place[a], place[b]), (a, b)))
                    left.discard((a, b))
            if not left:
                break
            swap = self._swap(place, at, left, met, since)
            since = swap
            here, there = swap
            u, v = at.get(here), at.get(there)
            pair = (min(u, v), max(u, v)) if u is not None and v is not None else None
            merged = met.get(pair) if pair is not None else None
            if merged is not None:
                steps[merged] = None
            first = -1 if u is None else u
            second = -1 if v is None else v
            kind: Literal["both", "swap"] = "swap" if merged is None else "both"
            steps.append(Step(kind, (here, there), (first, second)))
            for moved, to in ((u, there), (v, here)):
                if moved is None:
                    at.pop(to, None)
            if u is not None:
                place[u], at[there] = there, u
            if v is not None:
                place[v], at[here] = here, v
            met = {p: k for p, k in met.items() if u not in p and v not in p}
        return Layout(tuple(placed), tuple(place), tuple(s for s in steps if s is not None))

    def _swap(
        self,
        place: list[int],
        at: dict[int, int],
        left: set[Pair],
        met: dict[Pair, int],
        since: Pair | None,
    ) -> Pair:
        """The swap that leaves the shortest way to go, cheap ones first."""
        waiting = {v for pair in left for v in pair}
        options: dict[Pair, float] = {}
        for v in waiting:
            here = place[v]
            for there in self._graph[here]:
                key = (min(here, there), max(here, there))
                if key in options or key == since:
                    continue
                options[key] = self._worth(key, place, at, left, met)
        noise = self._rng.random(len(options)) * 0.4
        scored = [(score + jitter, key) for (key, score), jitter in zip(options.items(), noise)]  # noqa: B905
        return min(scored)[1]

    def _worth(
        self,
        swap: Pair,
        place: list[int],
        at: dict[int, int],
        left: set[Pair],
        met: dict[Pair, int],
    ) -> float:
        here, there = swap
        u, v = at.get(here), at.get(there)
        moved = {w: to for w, to in ((u, there), (v, here)) if w is not None}
        nearest, total = math.inf, 0.0
        for a, b in left:
            d = self._distance[moved.get(a, place[a])][moved.get(b, place[b])] - 1
            total += d
            nearest = min(nearest, d)
        cheap = u is not None and v is not None and (min(u, v), max(u, v)) in met
        # A term that meets at once is worth more than many that come a little nearer.
        return total / len(left) * 4 + nearest + (0.3 if cheap else 1.0)

    def _length(self, v: int, place: Sequence[int]) -> float:
        return float(sum(self._distance[place[v]][place[w]] - 1 for w in self._partners[v]))

    def _region(self) -> list[int]:
        """N connected places, those with the most chosen neighbors first."""
        chosen = [self._places[int(self._rng.integers(len(self._places)))]]
        inside = set(chosen)
        while len(chosen) < self._n:
            border = {q for place in chosen for q in self._graph[place]} - inside
            score = {q: len(inside & set(self._graph[q])) + self._rng.random() for q in border}
            taken = max(score, key=lambda q: score[q])
            chosen.append(taken)
            inside.add(taken)
        return chosen


def depth_of(steps: Iterable[Step]) -> int:
    """Depth in two-qubit gates, everything as early as it can be."""
    ready: dict[Any, int] = {}
    for step in steps:
        done = max(ready.get(place, 0) for place in step.places) + COST[step.kind]
        for place in step.places:
            ready[place] = done
    return max(ready.values(), default=0)
