"""The report of a run: what was cut, by whom, how well, and who won; as JSON."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np

from tasks.quantum import profile
from tasks.quantum.backends import spec_of
from tasks.quantum.coreset import Coreset
from tasks.quantum.engine import Problem, Qaoa, Trial, clusters, optimize
from tasks.quantum.engine.problem import Floats
from tasks.quantum.engine.trial import interval
from tasks.quantum.engine.verdict import words
from tasks.quantum.request import Request

CAUTIOUS: Final = (
    "quantum_worse", "inconclusive", "tie", "quantum_better_on_simulator", "advantage_candidate",
)  # fmt: skip
"""Verdicts, from the one that is said of a whole run if any cut has it."""
PACKAGES: Final = ("numpy", "scipy", "scikit-learn", "numba", "cirq-core", "qsimcirq", "qiskit")


def trial_json(problem: Problem, held: Trial, layers: int) -> dict[str, Any]:
    """A trial as it is stored: figures first, and what they rest on.

    Best of shots is not among the first: at a few points random guessing has the best cut as well.
    """
    best = held.best
    optimum = held.optimum.value if held.optimum is not None else None
    climb = optimize(Qaoa(problem), layers, start="interp") if problem.weights.any() else None
    solutions = held.solutions
    return {
        "n": problem.n,
        "optimum": optimum,
        "mean_of_a_random_cut": float(problem.weights.sum() / 4),
        "expectation": _figures([each.optimum.expectation for each in solutions], optimum),
        "sampled": _figures([each.sampled for each in solutions], optimum),
        "p_opt": held.mass,
        "best_of_shots": _figures([each.value for each in solutions], optimum),
        "by_layers": {
            str(p): _ratio(value, optimum)
            for p, value in (climb.by_layers if climb else {}).items()
        },
        "gammas": best.optimum.gammas.tolist(),
        "betas": best.optimum.betas.tolist(),
        "seeds": len(solutions),
        "stability": stability([each.bits for each in solutions]),
        "seconds": held.evidence.quantum.budget,
        "rivals": {
            name: {
                **_figures([each.value for each in answers], optimum),
                "found_after": float(np.mean([each.found_after for each in answers])),
                "seconds": float(np.mean([each.seconds for each in answers])),
                "budget": held.evidence.quantum.budget,
                "tries": int(np.mean([each.tries for each in answers])),
            }
            for name, answers in sorted(held.rivals.items())
        },
        "exact_seconds": held.optimum.seconds if held.optimum is not None else None,
        "verdict": held.verdict.name,
        "why": held.verdict.why,
        "rival": held.verdict.rival,
        "p_value": held.verdict.p_value,
    }


def stability(partitions: Sequence[Any]) -> float | None:
    """Mean adjusted Rand index between the partitions of all pairs of seeds; 1: always the same."""
    from sklearn.metrics import adjusted_rand_score

    pairs = list(combinations(partitions, 2))
    if not pairs:
        return None
    return float(np.mean([adjusted_rand_score(a, b) for a, b in pairs]))


def assemble(
    request: Request, steps: Mapping[str, Any], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """The report of a run from its steps and the sizes of its segments."""
    from tasks.quantum.stages import group_sums

    value = steps["coreset"]
    points = Coreset.from_json(value["coreset"])
    groups: list[list[int]] = steps["groups"]["groups"]
    sums = group_sums(value, groups)
    named = profile.labels(sums)
    cuts = []
    for number in range(1, request.k):
        if (cut := steps.get(f"cut:{number}")) is not None:
            cuts.append({"number": number, **cut, "trial": steps[f"trial:{number}"]})
    name, why = overall([cut["trial"] for cut in cuts])
    spec = spec_of(request.backend)
    return {
        "segment": request.segment,
        "verdict": name,
        "why": why,
        "request": request.as_json(),
        "backend": {
            "requested": request.backend,
            "actual": sorted({cut["backend"] for cut in cuts}) or [request.backend],
            "kind": spec.kind,
            "title": spec.title,
            "hardware": spec.kind == "hardware",
        },
        "subscribers": sum(sizes.values()),
        "segments": profile.described(named, sums, sizes.get(profile.NEVER_BOUGHT, 0)),
        "asked_for": request.k,
        "coreset": {
            "points": points.points.tolist(),
            "masses": points.masses.tolist(),
            "groups": [next(g for g, group in enumerate(groups) if p in group) for p in range(len(points.points))],
            "labels": named,
            "explained": points.explained,
            "rows": points.rows,
            "cached": value["cached"],
            "seconds": value["seconds"],
        },
        "partitions": partitions(points, groups, np.array(value["sample"], dtype=float), request),
        "cuts": cuts,
        "versions": _versions(),
    }  # fmt: skip


def overall(trials: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """One verdict for a run: the most cautious of its cuts'."""
    if not trials:
        return "inconclusive", "nothing was cut: there are not two different points"
    first = min(trials, key=lambda trial: CAUTIOUS.index(trial["verdict"]))
    same = sum(trial["verdict"] == first["verdict"] for trial in trials)
    share = "" if len(trials) == 1 else f"{same} of {len(trials)} cuts: "
    return first["verdict"], f"{share}{first['why']}"


def partitions(
    points: Coreset, groups: list[list[int]], sample: Floats, request: Request
) -> dict[str, float | None]:
    """Mean silhouette of a sample of subscribers under our partition, and those of three others.

    k-means, spectral clustering and clusters by the fidelity kernel divide the same coreset into as
    many segments. Source:
    Rousseeuw, "Silhouettes", J. Comp. Appl. Math. 20 (1987).
    """
    from sklearn.cluster import KMeans, SpectralClustering

    from tasks.quantum.engine.graphs import affinity

    k = len(groups)
    ours = np.zeros(len(points.points), dtype=int)
    for g, group in enumerate(groups):
        ours[group] = g
    found = {"quantum": _silhouette(points, ours, sample)}
    if 2 <= k < len(points.points):
        means = KMeans(k, n_init=10, random_state=request.seed)
        means.fit(points.points, sample_weight=points.masses)
        found["k_means"] = _silhouette(points, means.labels_, sample)
        graph = SpectralClustering(k, affinity="precomputed", random_state=request.seed)
        fidelity = clusters(points.points, k, weights=points.masses, seed=request.seed)
        found["fidelity_kernel"] = _silhouette(points, fidelity, sample)
        found["spectral"] = _silhouette(points, graph.fit(affinity(points.points)).labels_, sample)
    return found


def rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The report as a table: each cut by each solver, against the optimum."""
    told = []
    for cut in report["cuts"]:
        trial = cut["trial"]
        shown = [
            ("QAOA, the mean of its shots", trial["sampled"], trial["seconds"]),
            ("QAOA, the best of its shots", trial["best_of_shots"], trial["seconds"]),
            *((words(n), r, r["found_after"]) for n, r in trial["rivals"].items()),
        ]
        if trial["optimum"] is not None:
            one = {"mean": trial["optimum"], "ratio": 1.0, "low": None, "high": None}
            shown.append(("exact", one, trial["exact_seconds"]))
        for name, figures, seconds in shown:
            told.append(
                {
                    "cut": cut["number"],
                    "points": trial["n"],
                    "solver": name,
                    "of the optimum": _percent(figures.get("ratio")),
                    "interval": _span(figures, trial["optimum"]),
                    "seconds": f"{seconds:.3g}",
                    "verdict": trial["verdict"],
                }
            )
    return told


def _silhouette(points: Coreset, label_of: Any, sample: Floats) -> float | None:
    from sklearn.metrics import silhouette_score

    near = (points.points**2).sum(axis=1) - 2 * sample @ points.points.T
    labels = np.asarray(label_of)[np.argmin(near, axis=1)]
    if not 2 <= len(set(labels.tolist())) < len(sample):
        return None
    return float(silhouette_score(sample, labels))


def _figures(values: Sequence[float], optimum: float | None) -> dict[str, Any]:
    array = np.asarray(values, dtype=float)
    low, high = interval(array)
    return {
        "values": array.tolist(),
        "mean": float(array.mean()),
        "low": low,
        "high": high,
        "best": float(array.max()),
        "ratio": _ratio(float(array.mean()), optimum),
    }


def _ratio(value: float, optimum: float | None) -> float | None:
    return value / optimum if optimum is not None and optimum > 0 else None


def _percent(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio:.2%}"


def _span(figures: Mapping[str, Any], optimum: float | None) -> str | None:
    low, high = _ratio(figures["low"], optimum) if figures["low"] is not None else None, None
    if low is None:
        return None
    high = _ratio(figures["high"], optimum)
    return f"{low:.2%} – {high:.2%}"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
