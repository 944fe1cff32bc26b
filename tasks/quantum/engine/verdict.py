"""Who won, said plainly; and everything that keeps a quantum result from being called an advantage.

::

    a baseline is missing, too few seeds, unequal time  → inconclusive
    more than the exact optimum                         → inconclusive (somebody miscounted)
    significantly below the best classical solver       → quantum_worse
    the same best value, no significant difference      → tie
    significantly above, on a simulator                 → quantum_better_on_simulator
    significantly above, on hardware, optimum unknown   → advantage_candidate
    everything else                                     → inconclusive

A simulator can never show advantage: a classical computer did the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from tasks.quantum.engine.problem import Floats

Kind = Literal["ideal", "noisy_virtual", "hardware"]
Name = Literal[
    "quantum_worse",
    "tie",
    "inconclusive",
    "quantum_better_on_simulator",
    "advantage_candidate",
]

SEEDS: Final = 10
SIGNIFICANT: Final = 0.01
SAME: Final = 1e-9
"""Relative difference below which two cuts are the same one."""
LENIENT: Final = 1.10
"""A rival's budget may fall short of the quantum solver's time by this factor, and no more."""
ALWAYS: Final = frozenset({"local_search", "goemans_williamson", "random", "spectral"})


@dataclass(frozen=True)
class Series:
    """What one solver came to, a value for each seed.

    Attributes:
        values: cuts, shape (seeds,).
        budget: mean seconds of wall time that it was given; for the quantum solver what it took.
        seconds: mean seconds until its best was found.
    """

    values: Floats
    budget: float
    seconds: float


@dataclass(frozen=True)
class Evidence:
    """Everything that a verdict may look at.

    Attributes:
        kind: of the backend that really ran.
        quantum: best of its shots for each seed; budget is its total time, queue included.
        rivals: by name.
        optimum: the exact one, None where nobody knows it.
        wanted: names of rivals that this problem calls for, beside `ALWAYS`.
    """

    kind: Kind
    quantum: Series
    rivals: Mapping[str, Series]
    optimum: float | None
    wanted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """The verdict, the sentence that explains it, and the figures it rests on.

    Attributes:
        name: see the module's text.
        why: one sentence for people.
        rival: the best classical solver, None where there is none.
        p_value: that quantum and rival differ by chance alone (two-sided), None: not compared.
    """

    name: Name
    why: str
    rival: str | None = None
    p_value: float | None = None


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a quantum solver beside its classical rivals."""
    if refused := _unfair(evidence):
        return Verdict("inconclusive", refused)
    quantum = evidence.quantum.values
    name = _best(evidence.rivals)
    best = evidence.rivals[name].values
    size = max(abs(float(best.max())), abs(float(quantum.max())), np.finfo(float).tiny)
    p_value = difference(quantum, best)
    ahead = (float(quantum.mean()) - float(best.mean())) / size
    significant = p_value < SIGNIFICANT and abs(ahead) > SAME

    def said(verdict: Name, why: str) -> Verdict:
        return Verdict(verdict, why, name, p_value)

    if significant and ahead < 0:
        return said(
            "quantum_worse", f"{words(name)} cut more, {-ahead:.3%} on the mean of the seeds"
        )
    if not significant:
        if abs(float(quantum.max()) - float(best.max())) <= SAME * size:
            return said("tie", _tie(evidence, name))
        return said(
            "inconclusive", f"no significant difference from {words(name)}: p = {p_value:.2g}"
        )
    if evidence.kind != "hardware":
        return said(
            "quantum_better_on_simulator",
            f"{ahead:.3%} above {words(name)}, computed by a classical computer: no advantage",
        )
    if evidence.optimum is not None:
        return said("inconclusive", "the exact optimum is known classically, so nothing was won")
    return said(
        "advantage_candidate",
        f"{ahead:.3%} above {words(name)} at equal total time, p = {p_value:.2g}; have it repeated"
        " by somebody else",
    )


def difference(first: Floats, second: Floats) -> float:
    """Two-sided p-value that two solvers' values differ by chance alone; 1.0 where all are equal.

    A permutation test on the difference of means (exact where there are few enough).
    """
    from scipy import stats

    if np.ptp(np.concatenate([first, second])) == 0:
        return 1.0
    done = stats.permutation_test(
        (first, second),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        vectorized=True,
        n_resamples=9_999,
        rng=np.random.default_rng(0),
    )
    return float(done.pvalue)


def words(name: str) -> str:
    """A solver's name as people read it."""
    return {"k_means": "k-means", "goemans_williamson": "Goemans–Williamson"}.get(
        name, name.replace("_", " ")
    )


def _unfair(evidence: Evidence) -> str | None:
    """Why nothing can be concluded, whoever is ahead."""
    missing = sorted((ALWAYS | evidence.wanted) - set(evidence.rivals))
    if missing:
        return f"{', '.join(words(each) for each in missing)} did not run: a baseline is missing"
    every = {"the quantum solver": evidence.quantum, **evidence.rivals}
    for name, series in every.items():
        if len(series.values) < SEEDS:
            return f"{words(name)} ran with {len(series.values)} seeds: expected at least {SEEDS}"
        if not np.isfinite(series.values).all():
            return f"{words(name)} gave a value that is no number"
    for name in ("local_search", "goemans_williamson"):
        # Those that use all their time; the others are done when they are done.
        if evidence.rivals[name].budget * LENIENT < evidence.quantum.budget:
            return f"{words(name)} was given less time than the quantum solver took"
    optimum = evidence.optimum
    if optimum is not None:
        above = max(float(series.values.max()) for series in every.values())
        if above > optimum + SAME * max(abs(optimum), np.finfo(float).tiny) * 10:
            return "a cut is larger than the exact optimum: somebody miscounted"
    return None


def _best(rivals: Mapping[str, Series]) -> str:
    """The rival of the largest mean; of several that share it, the one that had it soonest."""
    top = max(float(series.values.mean()) for series in rivals.values())
    level = top - SAME * max(abs(top), np.finfo(float).tiny)
    those = {name: s for name, s in rivals.items() if float(s.values.mean()) >= level}
    return min(those, key=lambda name: those[name].seconds)


def _tie(evidence: Evidence, rival: str) -> str:
    quantum, other = evidence.quantum.seconds, evidence.rivals[rival].seconds
    sentence = f"the same cut as {words(rival)}"
    if other > 0 and quantum > 2 * other:
        times = f"{quantum / other:,.0f}".replace(",", " ")
        sentence += f", which had it {times} times sooner"
    guessed = evidence.rivals["random"].values
    if float(guessed.min()) >= float(evidence.quantum.values.min()):
        sentence += "; random guessing with as many shots found it too"
    return sentence
