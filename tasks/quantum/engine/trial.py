"""A fair trial of one problem: QAOA with several seeds, each rival with the same wall time, a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum.engine import classical
from tasks.quantum.engine.optimum import Optimum, Start, optimize
from tasks.quantum.engine.problem import Bits, Floats, Problem
from tasks.quantum.engine.qaoa import Qaoa
from tasks.quantum.engine.verdict import SEEDS, Evidence, Kind, Series, Verdict, judge

Measure = Callable[[Problem, Floats, Floats, int, int], NDArray[np.int8]]
"""(problem, gammas, betas, shots, seed) → bits of shape (shots, n): where circuits are sampled."""

SPREAD = 0.05
"""How far a seed's first angles lie from the fixed ones, in `optimum.optimize`'s units."""


@dataclass(frozen=True)
class Solution:
    """What one run of QAOA came to.

    Attributes:
        optimum: its angles, and ⟨C⟩ of the ideal circuit there.
        bits: the best partition of its shots, shape (n,); the side of the first vertex is 0.
        value: its cut.
        sampled: mean cut of the shots: ⟨C⟩ as the backend gave it.
        seconds: of wall time, for angles and shots.
    """

    optimum: Optimum
    bits: Bits
    value: float
    sampled: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """As it is stored."""
        found = self.optimum
        return {
            "gammas": found.gammas.tolist(),
            "betas": found.betas.tolist(),
            "expectation": found.expectation,
            "by_layers": {str(p): value for p, value in found.by_layers.items()},
            "evaluations": found.evaluations,
            "climb": found.seconds,
            "converged": found.converged,
            "bits": self.bits.tolist(),
            "value": self.value,
            "sampled": self.sampled,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Solution:
        """What `as_json` stored."""
        optimum = Optimum(
            np.array(value["gammas"], dtype=float), np.array(value["betas"], dtype=float),
            value["expectation"], {int(p): each for p, each in value["by_layers"].items()},
            value["evaluations"], value["climb"], value["converged"],
        )  # fmt: skip
        bits = np.array(value["bits"], dtype=np.int8)
        return cls(optimum, bits, value["value"], value["sampled"], value["seconds"])


def at_once(seed: int, solved: Callable[[], Solution]) -> Solution:
    """Solve with a seed, and keep nothing: what `trial` does by default."""
    return solved()


@dataclass(frozen=True)
class Trial:
    """A problem, solved by everybody.

    Attributes:
        solutions: of QAOA, one a seed.
        rivals: answers of each rival, one a seed.
        optimum: exact, None above `classical.EXACT_UP_TO` vertices.
        mass: P(opt): probability that one shot of the ideal circuit is an optimum, the mean over
            seeds; None without an exact optimum.
        evidence, verdict: see `verdict`.
    """

    solutions: tuple[Solution, ...]
    rivals: dict[str, tuple[classical.Answer, ...]]
    optimum: classical.Answer | None
    mass: float | None
    evidence: Evidence
    verdict: Verdict

    @property
    def best(self) -> Solution:
        """The solution of the largest cut; of the first seed where several have it."""
        return max(self.solutions, key=lambda each: each.value)


def solve(
    problem: Problem,
    p: int,
    *,
    shots: int,
    seed: int,
    measure: Measure | None = None,
    start: Start = "fixed",
    deadline: float = float("inf"),
) -> Solution:
    """Find angles and measure: QAOA from the problem to a partition.

    Args:
        problem: the cut.
        p: layers.
        shots: measurements.
        seed: of the first angles and of the shots.
        measure: where the circuit is sampled; by default from the engine's own state.
        start: of `optimize`.
        deadline: of `optimize`.
    """
    began = time.perf_counter()
    rng = np.random.default_rng(seed)
    if problem.n == 1 or not problem.weights.any():
        # Nothing can be cut: every angle is as good, and no circuit is needed to say so.
        still = Optimum(np.zeros(p), np.zeros(p), 0.0, {p: 0.0}, 0, 0.0, True)
        return Solution(still, np.zeros(problem.n, dtype=np.int8), 0.0, 0.0, 0.0)
    qaoa = Qaoa(problem)
    found = optimize(qaoa, p, start=start, spread=SPREAD, rng=rng, deadline=deadline)
    if measure is None:
        bits = problem.bits(qaoa.sample(found.gammas, found.betas, shots, rng))
    else:
        bits = np.asarray(measure(problem, found.gammas, found.betas, shots, seed), dtype=np.int8)
    values = problem.cut(bits)
    return Solution(
        optimum=found,
        bits=canonical(bits[int(np.argmax(values))]),
        value=float(values.max()),
        sampled=float(values.mean()),
        seconds=time.perf_counter() - began,
    )


def trial(
    problem: Problem,
    p: int,
    *,
    shots: int,
    seed: int = 0,
    seeds: int = SEEDS,
    kind: Kind = "ideal",
    measure: Measure | None = None,
    points: Floats | None = None,
    masses: Floats | None = None,
    start: Start = "fixed",
    keep: Callable[[int, Callable[[], Solution]], Solution] = at_once,
) -> Trial:
    """QAOA and every rival on the same problem, with `seeds` seeds each and the same wall time.

    A rival that has the exact optimum stops, since no time could better it, and counts as having had
    it all: beside a simulator of noise the others would else keep the processor for nothing.

    Args:
        problem: the cut.
        p: of `solve`, as `shots`, `measure` and `start`.
        shots: measurements of each seed; random guessing gets as many.
        seed: the first of the seeds.
        seeds: how many.
        kind: of the backend behind `measure`.
        measure: where circuits are sampled.
        points: shape (n, d): the coreset, where there is one.
        masses: of its points, shape (n,).
        start: where the climb begins.
        keep: (seed, how it is solved) → its solution, for whoever has solved some of them before.
    """
    _warm()
    solutions = []
    for each in range(seed, seed + seeds):
        solved = partial(solve, problem, p, shots=shots, seed=each, measure=measure, start=start)
        solutions.append(keep(each, solved))
    answers: dict[str, list[classical.Answer]] = {}
    known = classical.exact(problem) if problem.n <= classical.EXACT_UP_TO else None
    enough = float("inf") if known is None else known.value - 1e-9 * abs(known.value)
    solvers = classical.rivals(problem, shots, points, masses, enough)
    for k, solution in enumerate(solutions):
        for at, (name, solver) in enumerate(sorted(solvers.items())):
            rng = np.random.default_rng([seed + k, at])
            answers.setdefault(name, []).append(solver(rng, solution.seconds))
    took = float(np.mean([each.seconds for each in solutions]))
    evidence = Evidence(
        kind=kind,
        quantum=Series(np.array([each.value for each in solutions]), took, took),
        rivals={name: _series(given, solutions, enough) for name, given in answers.items()},
        optimum=None if known is None else known.value,
        wanted=frozenset() if points is None else frozenset({"k_means"}),
    )
    mass = None if known is None else _optimal_mass(problem, solutions, known.value)
    frozen = {name: tuple(given) for name, given in answers.items()}
    return Trial(tuple(solutions), frozen, known, mass, evidence, judge(evidence))


def canonical(bits: NDArray[Any]) -> Bits:
    """The partition named so that the first vertex is on side 0; a partition and its mirror agree."""
    sides: Bits = (np.asarray(bits) ^ np.asarray(bits)[..., :1]).astype(np.int8)
    return sides


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the mean: percentile, 2 000 resamples of a fixed generator."""
    drawn = np.random.default_rng(0).choice(values, size=(2_000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@cache
def _warm() -> None:
    """Load or compile the kernels of everybody once a process, so that no first seed pays for it."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 3.0], [3.0, 4.0]])
    problem = Problem(np.ones((5, 5)) - np.eye(5), tuple(range(5)))
    optimize(Qaoa(problem), 1)
    for solver in classical.rivals(problem, 16, corners).values():
        solver(np.random.default_rng(0), 0.0)


def _series(answers: list[classical.Answer], solutions: list[Solution], enough: float) -> Series:
    values = np.array([each.value for each in answers])
    # Measured, not what was allowed: the verdict looks whether it was enough.
    budget = [
        max(each.seconds, allowed.seconds) if each.value >= enough else each.seconds
        for each, allowed in zip(answers, solutions, strict=True)
    ]
    return Series(
        values, float(np.mean(budget)), float(np.mean([each.found_after for each in answers]))
    )


def _optimal_mass(problem: Problem, solutions: list[Solution], optimum: float) -> float:
    qaoa = Qaoa(problem)
    slack = 1e-9 * max(abs(optimum), np.finfo(float).tiny)
    best = problem.diagonal >= optimum - slack
    angles = [each.optimum for each in solutions]
    return float(np.mean([qaoa.probabilities(one.gammas, one.betas)[best].sum() for one in angles]))
