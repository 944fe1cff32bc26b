"""The best angles of a problem: L-BFGS on the adjoint gradient, from angles that are good already."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize

from tasks.quantum.engine import angles
from tasks.quantum.engine.problem import Floats
from tasks.quantum.engine.qaoa import Qaoa

Start = Literal["fixed", "interp"]


@dataclass(frozen=True)
class Optimum:
    """Angles and what they give.

    Attributes:
        gammas, betas: shape (p,), radians (γ per unit of weight).
        expectation: ⟨C⟩ there, in units of the weights.
        by_layers: ⟨C⟩ that was reached with 1 … p layers (`interp`), else with p alone.
        evaluations: of ⟨C⟩ and its gradient.
        seconds: of wall time.
        converged: false where `deadline` ended it.
    """

    gammas: Floats
    betas: Floats
    expectation: float
    by_layers: dict[int, float]
    evaluations: int
    seconds: float
    converged: bool


def optimize(
    qaoa: Qaoa,
    p: int,
    *,
    start: Start = "fixed",
    spread: float = 0.0,
    rng: np.random.Generator | None = None,
    deadline: float = float("inf"),
) -> Optimum:
    """Climb to the nearest optimum of ⟨C⟩ with p layers.

    Args:
        qaoa: the circuits of the problem.
        p: layers, at least 1.
        start: `fixed` climbs once from `angles.fixed`; `interp` climbs at 1 … p layers, each from
            the optimum of one layer less.
        spread: standard deviation of a disturbance of the first angles (relative to γ's scale for
            γ, in radians for β), drawn from `rng`.
        rng: needed with a spread.
        deadline: of `time.monotonic`; what is best then is returned.
    """
    began, before = time.monotonic(), qaoa.evaluations
    layers = range(1, p + 1) if start == "interp" else (p,)
    gammas, betas = angles.fixed(qaoa.problem, layers[0])
    if spread:
        if rng is None:
            raise ValueError("a spread needs a random generator: pass rng")
        gammas = gammas + rng.normal(scale=spread, size=gammas.shape) / qaoa.problem.scale
        betas = betas + rng.normal(scale=spread, size=betas.shape)
    by_layers: dict[int, float] = {}
    converged = True
    for layer in layers:
        if layer > len(gammas):
            gammas, betas = angles.longer(gammas), angles.longer(betas)
        gammas, betas, value, finished = _climb(qaoa, gammas, betas, deadline)
        by_layers[layer] = value
        converged = converged and finished
    return Optimum(
        gammas=gammas,
        betas=betas,
        expectation=by_layers[p],
        by_layers=by_layers,
        evaluations=qaoa.evaluations - before,
        seconds=time.monotonic() - began,
        converged=converged,
    )


class _Late(Exception):
    """The deadline has passed."""


def _climb(
    qaoa: Qaoa, gammas: Floats, betas: Floats, deadline: float
) -> tuple[Floats, Floats, float, bool]:
    p, scale = len(gammas), qaoa.problem.scale
    # ⟨C⟩ in units of its own size and γ in units of 1/scale: what L-BFGS sees is near 1.
    unit = max(float(np.abs(qaoa.problem.weights).sum()) / 4, np.finfo(float).tiny)
    best: tuple[float, Floats] | None = None

    def fall(x: Floats) -> tuple[float, Floats]:
        nonlocal best
        value, by_gamma, by_beta = qaoa.gradient(x[:p] / scale, x[p:])
        if best is None or value > best[0]:
            best = value, x.copy()
        if time.monotonic() > deadline:
            raise _Late
        return -value / unit, -np.concatenate([by_gamma / scale, by_beta]) / unit

    finished = True
    try:
        minimize(
            fall,
            np.concatenate([gammas * scale, betas]),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 200, "ftol": 1e-7, "gtol": 1e-5},
        )
    except _Late:
        finished = False
    assert best is not None, "the first evaluation sets it"
    value, x = best
    return x[:p] / scale, x[p:], value, finished
