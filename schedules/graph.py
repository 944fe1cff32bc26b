"""Which steps nobody reaches, and which ways lead round in a circle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from schedules.findings import Path


@dataclass(frozen=True, slots=True)
class Edge:
    """One way on from a step.

    Attributes:
        source: id of the step that leads on.
        target: id of the step it leads to.
        path: where the file says so; for a fall-through, the source itself.
    """

    source: str
    target: str
    path: Path


def unreached(steps: Mapping[str, Path], edges: Iterable[Edge]) -> Iterator[tuple[Path, str]]:
    """Yield place and sentence of each step that no way from the first one reaches.

    Args:
        steps: id to place, in the order of the file.
        edges: every way on; both ends are in ``steps``.
    """
    ways = _ways(edges)
    reached, open_ = set[str](), list(steps)[:1]
    while open_:
        step = open_.pop()
        if step not in reached:
            reached.add(step)
            open_.extend(edge.target for edge in ways.get(step, ()))
    for step, path in steps.items():
        if step not in reached:
            yield (
                path,
                f"step {step!r} is never reached: expected a way to it from the first step; point a"
                f" 'next' at it or remove it",
            )


def cycles(steps: Mapping[str, Path], edges: Iterable[Edge]) -> Iterator[tuple[Path, str]]:
    """Yield place and sentence of each way back: with all of them gone, every way ends.

    The place is the way that leads up (or stays) in the file: every cycle has one, and only an
    explicit successor can. Depth first without recursion; arguments as `unreached`.
    """
    ways = _ways(edges)
    order = {step: index for index, step in enumerate(steps)}
    done: set[str] = set()
    for start in steps:
        trail: list[Edge] = []  # the edges from `start` to where the search stands
        on_trail = {start}
        stack = [iter(ways.get(start, ()))] if start not in done else []
        while stack:
            edge = next(stack[-1], None)
            if edge is None:
                stack.pop()
                left = trail.pop().target if trail else start
                on_trail.discard(left)
                done.add(left)
            elif edge.target in on_trail:
                yield _cycle([*trail, edge], order)
            elif edge.target not in done:
                trail.append(edge)
                on_trail.add(edge.target)
                stack.append(iter(ways.get(edge.target, ())))


def _cycle(trail: list[Edge], order: Mapping[str, int]) -> tuple[Path, str]:
    entry = trail[-1].target
    begin = next(index for index, edge in enumerate(trail) if edge.source == entry)
    ring = trail[begin:]
    upward = next(edge for edge in ring if order[edge.target] <= order[edge.source])
    walk = " → ".join([entry, *(edge.target for edge in ring)])
    return (
        upward.path,
        f"the steps {walk} form a cycle: expected every way to end, since people come back by"
        f" entering again; lead {upward.source!r} on to a later step or an exit",
    )


def _ways(edges: Iterable[Edge]) -> dict[str, list[Edge]]:
    ways: dict[str, list[Edge]] = {}
    for edge in edges:
        ways.setdefault(edge.source, []).append(edge)
    return ways
