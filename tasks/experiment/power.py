"""How many people an experiment needs, before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from tasks.experiment.bounds import crossing
from tasks.experiment.sequential import EFFECT, boundary, information

LARGEST = 1 << 40


def per_arm(base: float, target: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Return the people an arm needs when one looks once, at the end.

    The two-sided test of two proportions with the pooled variance under no effect (Fleiss, Levin and
    Paik 2003, equation 4.14): 10 % → 11 % at 80 % takes 14 751.

    Raises:
        ValueError: rates that are equal or not between 0 and 1; a power or level that is none.
    """
    _judge(base, target, power, alpha)
    mean = (base + target) / 2
    null = -ndtri(alpha / 2) * math.sqrt(2 * mean * (1 - mean))
    apart = ndtri(power) * math.sqrt(base * (1 - base) + target * (1 - target))
    return math.ceil((float(null + apart) / (target - base)) ** 2)


def power_of(base: float, target: float, people: int, *, alpha: float = 0.05) -> float:
    """Return the chance to find that difference with so many people an arm, looking once."""
    _judge(base, target, 0.5, alpha)
    mean = (base + target) / 2
    null = -ndtri(alpha / 2) * math.sqrt(2 * mean * (1 - mean) / people)
    spread = math.sqrt((base * (1 - base) + target * (1 - target)) / people)
    gap = abs(target - base)
    return float(ndtr((gap - null) / spread) + ndtr((-gap - null) / spread))


def sequential_power(
    base: float,
    target: float,
    people: int,
    *,
    looks: int = 30,
    least: int = 0,
    alpha: float = 0.05,
    effect: float = EFFECT,
) -> float:
    """Return the chance that the always-valid test finds it by ``people`` an arm.

    Args:
        base: rate of one arm.
        target: rate of the other.
        people: of each arm at the last look.
        looks: how often one looks, evenly.
        least: people an arm below which nothing is concluded.
        alpha: level.
        effect: of the mixture, as in `sequential`.
    """
    _judge(base, target, 0.5, alpha)
    at = [n for n in (people * k / looks for k in range(1, looks + 1)) if n >= least]
    if not at:
        return 0.0
    known = [_known(base, target, n) for n in at]
    return _found(base, target, boundary(known, alpha, effect).tolist(), known)


def sequential_per_arm(
    base: float,
    target: float,
    *,
    power: float = 0.8,
    looks: int = 30,
    least: int = 0,
    alpha: float = 0.05,
    effect: float = EFFECT,
) -> int:
    """Return the people an arm by which the always-valid test has found it with that power.

    It is more than `per_arm`: the price of looking whenever one likes. Most experiments with a real
    effect end long before.
    """
    _judge(base, target, power, alpha)
    high = max(per_arm(base, target, power=power, alpha=alpha), least)

    def reaches(people: int) -> bool:
        found = sequential_power(
            base, target, people, looks=looks, least=least, alpha=alpha, effect=effect
        )
        return found >= power

    low = high // 2
    while not reaches(high) and high < LARGEST:
        low, high = high, high * 2
    while high - low > max(1, high // 2000):
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def group_power(base: float, target: float, people: int, bounds: Sequence[float]) -> float:
    """Return the chance that evenly spaced looks with those bounds of |z| find it by ``people`` an arm."""
    looks = len(bounds)
    known = [_known(base, target, people * k / looks) for k in range(1, looks + 1)]
    return _found(base, target, bounds, known)


def group_per_arm(
    base: float, target: float, bounds: Sequence[float], *, power: float = 0.8
) -> int:
    """Return the people an arm that group-sequential looks with those bounds need at most."""
    _judge(base, target, power, 0.05)
    low, high = 1, 2
    while group_power(base, target, high, bounds) < power and high < LARGEST:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        enough = group_power(base, target, middle, bounds) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def _known(base: float, target: float, people: float) -> float:
    return float(information(base * people, people, target * people, people))


def _found(base: float, target: float, bounds: Sequence[float], known: Sequence[float]) -> float:
    # z per √information is the relative difference, by the rate of both arms together.
    above, below = crossing(bounds, known, abs(target - base) / ((base + target) / 2))
    return float(np.sum(above) + np.sum(below))


def _judge(base: float, target: float, power: float, alpha: float) -> None:
    if not (0 < base < 1 and 0 < target < 1) or base == target:
        raise ValueError(
            f"rates {base:g} and {target:g}: expected two different ones between 0 and 1; correct"
            " the base rate or the lift"
        )
    if not (0 < power < 1 and 0 < alpha < 1):
        raise ValueError(f"power {power:g} at level {alpha:g}: expected both between 0 and 1")
