"""What each stage of a segment run does; a stage is gone on with where it stopped.

A stage loads what is there, computes what is missing, and writes it down in one transaction a step.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.session import Database
from tasks.quantum import features, members, profile, report, store
from tasks.quantum.backends import Backend, open_backend, spec_of
from tasks.quantum.coreset import Coreset, reduce
from tasks.quantum.engine import Problem, problem_from, solve, trial
from tasks.quantum.engine.graphs import Objective, weights_of
from tasks.quantum.engine.problem import Floats
from tasks.quantum.engine.trial import Measure, Solution, at_once
from tasks.quantum.settings import QuantumSettings
from tasks.quantum.store import Taken

CLIMB: Final = 20.0
"""Seconds after which the search for angles ends with what it has."""
SAMPLE: Final = 1_500
"""Subscribers by whom partitions are compared in the report."""


class Lost(Exception):
    """The run is somebody else's by now: what is in hand is thrown away."""


def _coreset(database: Database, run: Taken) -> None:
    """Stage 1: the features of everybody become a few points; the same ones are computed once."""
    began = time.monotonic()
    request = run.request
    # Asked before anything is computed: what cannot run here is refused at once.
    open_backend(request.backend)
    with database.snapshot() as connection:
        key = features.fingerprint(connection, request.as_of)
        key |= {"points": request.points, "seed": request.seed}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).digest()
        value = store.cached(connection, digest)
        cached = value is not None
        if value is None:
            parts = []
            for first, end in features.ranges(connection):
                parts.append(features.read(connection, request.as_of, first, end).values)
            rows = np.concatenate(parts) if parts else np.empty((0, len(features.COLUMNS)))
            value = summary(rows, request.points, request.seed)
    told = {"seconds": time.monotonic() - began, "cached": cached}
    with database.transaction() as connection:
        if not cached:
            store.cache(connection, digest, value)
        if not store.put_step(connection, run, "coreset", value | told):
            raise Lost
        store.move(connection, run, "cut")


def summary(rows: Floats, m: int, seed: int) -> dict[str, Any]:
    """A coreset as it is stored, with what its points' people are like and some of them.

    Args:
        rows: features of everybody who bought, shape (n, 4), untamed.
        m: points.
        seed: of the coreset and of the sample.
    """
    tamed = features.tamed(rows)
    points = reduce(tamed, m, seed)
    sums = profile.Sums.none(len(points.points)).plus(points.nearest(tamed), rows)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:SAMPLE]
    return {
        "coreset": points.as_json(),
        "n": sums.n.tolist(),
        "sums": sums.sums.tolist(),
        "sample": points.standardize(tamed[chosen]).tolist(),
    }


def _cut(database: Database, run: Taken) -> None:
    """Stage 2: k−1 cuts by QAOA, each of the group that is worth it most."""
    request = run.request
    with database.transaction() as connection:
        known = store.steps(connection, run.id)
    points = Coreset.from_json(known["coreset"]["coreset"])
    backend = open_backend(request.backend)
    groups = [list(range(len(points.points)))]
    whole: set[int] = set()  # first points of groups that no cut divides
    for number in range(1, request.k):
        group = next_group(points, [g for g in groups if g[0] not in whole])
        if group is None:
            break
        step = f"cut:{number}"
        if step not in known:
            known[step] = _one_cut(database, run, backend, points, group, number)
            with database.transaction() as connection:
                if not store.put_step(connection, run, step, known[step]):
                    raise Lost
        bits = np.array(known[step]["bits"])
        if not bits.any():
            whole.add(group[0])
            continue
        groups.remove(group)
        groups += [[p for p, b in zip(group, bits, strict=True) if b == side] for side in (0, 1)]
    groups.sort()
    with database.transaction() as connection:
        if not store.put_step(connection, run, "groups", {"groups": groups}):
            raise Lost
        store.move(connection, run, "assign")


def next_group(points: Coreset, groups: list[list[int]]) -> list[int] | None:
    """The group of points with the most scatter; None: none has two different points."""
    best, most = None, 0.0
    for group in groups:
        at, mass = points.points[group], points.masses[group]
        middle = np.average(at, axis=0, weights=mass)
        scatter = float((mass[:, None] * (at - middle) ** 2).sum())
        if len(group) > 1 and scatter > most:
            best, most = group, scatter
    return best


def problem_for(points: Coreset, group: list[int], objective: Objective) -> Problem:
    """The cut of a group of points."""
    return problem_from(weights_of(objective, points.points[group], points.masses[group]))


def _one_cut(
    database: Database, run: Taken, backend: Backend, points: Coreset, group: list[int], number: int
) -> dict[str, Any]:
    request = run.request
    objective: Objective = "scatter" if request.objective == "scatter" else "modularity"
    problem = problem_for(points, group, objective)
    found = solve(
        problem, request.layers, shots=request.shots, seed=request.seed + 1000 * number,
        measure=measure_on(backend), deadline=time.monotonic() + CLIMB,
    )  # fmt: skip
    compiled = backend.compile(problem, found.optimum.gammas, found.optimum.betas)
    return {
        "members": group,
        "bits": found.bits.tolist(),
        "value": found.value,
        "sampled": found.sampled,
        "expectation": found.optimum.expectation,
        "gammas": found.optimum.gammas.tolist(),
        "betas": found.optimum.betas.tolist(),
        "evaluations": found.optimum.evaluations,
        "converged": found.optimum.converged,
        "seconds": found.seconds,
        "two_qubit": compiled.two_qubit,
        "depth": compiled.depth,
        "backend": backend.spec.name,
        "kind": backend.spec.kind,
    }


def measure_on(backend: Backend) -> Measure:
    """Compile and submit to a backend: a `trial.Measure`."""

    def measure(
        problem: Problem, gammas: Floats, betas: Floats, shots: int, seed: int
    ) -> NDArray[np.int8]:
        compiled = backend.compile(problem, gammas, betas)
        return backend.submit(compiled, shots, seed, QuantumSettings().quantum_job_wait)

    return measure


def _assign(database: Database, run: Taken) -> None:
    """Stage 3: everybody goes where the nearest point is, a range of ids a transaction."""
    with database.transaction() as connection:
        known = store.steps(connection, run.id)
        bounds = list(features.ranges(connection))
    points = Coreset.from_json(known["coreset"]["coreset"])
    groups: list[list[int]] = known["groups"]["groups"]
    named = profile.labels(group_sums(known["coreset"], groups))
    label_of = {p: named[g] for g, group in enumerate(groups) for p in group}
    for first, end in bounds:
        if end <= run.after_id:
            continue
        with database.transaction() as connection:
            rows = features.read(connection, run.request.as_of, first, end)
            nearest = points.nearest(features.tamed(rows.values))
            labels = [label_of[p] for p in nearest.tolist()]
            ids = rows.ids.tolist()
            if not members.assign(connection, run, ids, labels, (first, end), profile.NEVER_BOUGHT):
                raise Lost
    with database.transaction() as connection:
        store.move(connection, run, "judge")


def group_sums(value: dict[str, Any], groups: list[list[int]]) -> profile.Sums:
    """The sums of the points' people, by group."""
    n, sums = np.array(value["n"], dtype=np.int64), np.array(value["sums"], dtype=float)
    return profile.Sums(
        np.array([n[g].sum() for g in groups], dtype=np.int64),
        np.array([sums[g].sum(axis=0) for g in groups]).reshape(len(groups), -1),
    )


def _judge(database: Database, run: Taken) -> None:
    """Stage 4: each cut again with several seeds, beside its classical rivals; then the report."""
    request = run.request
    with database.transaction() as connection:
        known = store.steps(connection, run.id)
        sizes = members.sizes(connection, run.id)
    points = Coreset.from_json(known["coreset"]["coreset"])
    backend = open_backend(request.backend)
    kind = spec_of(request.backend).kind
    objective: Objective = "scatter" if request.objective == "scatter" else "modularity"
    for number in range(1, request.k):
        cut = known.get(f"cut:{number}")
        step = f"trial:{number}"
        if cut is None or step in known:
            continue
        group = cut["members"]
        problem = problem_for(points, group, objective)
        held = trial(
            problem, request.layers, shots=request.shots, seed=request.seed, seeds=request.seeds,
            kind=kind, measure=measure_on(backend), points=points.points[group],
            masses=points.masses[group], keep=_keeper(database, run, known, number, backend),
        )  # fmt: skip
        known[step] = report.trial_json(problem, held, request.layers)
        with database.transaction() as connection:
            if not store.put_step(connection, run, step, known[step]):
                raise Lost
    made = report.assemble(request, known, sizes)
    with database.transaction() as connection:
        if store.move(connection, run, "done", report=made, why=made["why"]):
            members.prune(connection, request.segment)


def _keeper(
    database: Database, run: Taken, known: dict[str, Any], number: int, backend: Backend
) -> Callable[[int, Callable[[], Solution]], Solution]:
    """Where a seed takes seconds to minutes, each is a step: a kill costs the one that was in hand."""

    def keep(seed: int, solved: Callable[[], Solution]) -> Solution:
        step = f"seed:{number}:{seed}"
        if step not in known:
            known[step] = solved().as_json()
            with database.transaction() as connection:
                if not store.put_step(connection, run, step, known[step]):
                    raise Lost
        return Solution.from_json(known[step])

    return keep if backend.spec.slow else at_once


BY_NAME: Final[dict[str, Callable[[Database, Taken], None]]] = {
    "coreset": _coreset,
    "cut": _cut,
    "assign": _assign,
    "judge": _judge,
}
