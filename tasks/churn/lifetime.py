"""Customer lifetime value: how many purchases are to come, and of what worth.

BG/NBD: while alive a customer buys at a Poisson rate λ ~ Gamma(r, α), and after each purchase is
lost with probability p ~ Beta(a, b). Gamma-Gamma: the worth of a purchase varies around the
customer's own mean, independent of how often they buy. Both fit three numbers a customer.

Sources: Fader, Hardie and Lee, "Counting Your Customers the Easy Way", Marketing Science 24 (2005);
Fader and Hardie, "The Gamma-Gamma Model of Monetary Value" (2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BetaGeometric:
    """A fitted BG/NBD; `log_likelihood` is that of the data it was fitted to."""

    r: float
    alpha: float
    a: float
    b: float
    log_likelihood: float

    def expected(self, t: float, x: ArrayLike, t_x: ArrayLike, T: ArrayLike) -> Floats:
        """Purchases to be expected within the next `t`, one number a customer.

        Args:
            t: length of the time to come, in the unit of the fit.
            x: repeat purchases seen (n,).
            t_x: when the last one was, counted from the first purchase (n,); 0 without a repeat.
            T: time from the first purchase until now (n,).
        """
        from scipy.special import hyp2f1

        x, t_x, T = _floats(x), _floats(t_x), _floats(T)
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        ratio = hyp2f1(r + x, b + x, a + b + x - 1, t / (alpha + T + t))
        left = (a + b + x - 1) / (a - 1)
        kept = 1 - ((alpha + T) / (alpha + T + t)) ** (r + x) * ratio
        lost = np.where(
            x > 0, a / (b + np.maximum(x, 1) - 1) * ((alpha + T) / (alpha + t_x)) ** (r + x), 0.0
        )
        return np.asarray(left * kept / (1 + lost), dtype=np.float64)

    def alive(self, x: ArrayLike, t_x: ArrayLike, T: ArrayLike) -> Floats:
        """P(alive), one number a customer; arguments as for `expected`.

        It is 1 for whoever never came back, so it ranks churn badly: rank by `expected`.
        """
        x, t_x, T = _floats(x), _floats(t_x), _floats(T)
        odds = self.a / (self.b + np.maximum(x, 1) - 1)
        lost = odds * ((self.alpha + T) / (self.alpha + t_x)) ** (self.r + x)
        return np.where(x > 0, 1 / (1 + lost), 1.0)


@dataclass(frozen=True, slots=True)
class GammaGamma:
    """A fitted Gamma-Gamma model of the worth of a purchase."""

    p: float
    q: float
    v: float
    log_likelihood: float

    def expected(self, x: ArrayLike, mean: ArrayLike) -> Floats:
        """Expected worth of a purchase to come, one number a customer.

        Args:
            x: repeat purchases seen (n,).
            mean: their mean worth (n,); not read where x is 0.
        """
        x, mean = _floats(x), np.where(_floats(x) > 0, _floats(mean), 0.0)
        return np.asarray(self.p * (self.v + mean * x) / (self.p * x + self.q - 1))


def fit_purchases(x: ArrayLike, t_x: ArrayLike, T: ArrayLike) -> BetaGeometric:
    """Fit a BG/NBD by maximum likelihood; any unit of time.

    Raises:
        ValueError: nobody came back, or the fit has no maximum.
    """
    from scipy.special import gammaln

    history = np.column_stack([_floats(x), _floats(t_x), _floats(T)])
    if not (history[:, 0] > 0).any():
        raise ValueError(
            "no customer bought a second time: BG/NBD has nothing to learn a rate from"
        )
    # One row for each different customer: at 1M of them most are alike.
    rows, n = np.unique(history, axis=0, return_counts=True)
    k, last, age = rows.T
    again = k > 0
    late = np.maximum(k, 1) - 1

    def loss(logs: Floats) -> float:
        r, alpha, a, b = np.exp(logs)
        base = gammaln(r + k) - gammaln(r) + r * np.log(alpha)
        base += gammaln(a + b) + gammaln(b + k) - gammaln(b) - gammaln(a + b + k)
        alive = -(r + k) * np.log(alpha + age)
        gone = np.log(a) - np.log(b + late) - (r + k) * np.log(alpha + last)
        return float(-np.dot(n, base + np.where(again, np.logaddexp(alive, gone), alive)))

    logs, least = _minimize(loss, [np.zeros(4), np.array([-1.0, np.log(age.mean()), 0.0, 1.0])])
    r, alpha, a, b = np.exp(logs)
    return BetaGeometric(float(r), float(alpha), float(a), float(b), -least)


def fit_worth(x: ArrayLike, mean: ArrayLike) -> GammaGamma:
    """Fit a Gamma-Gamma model by maximum likelihood to those who came back and paid.

    Args:
        x: repeat purchases (n,).
        mean: their mean worth (n,).

    Raises:
        ValueError: fewer than ten such customers.
    """
    from scipy.special import gammaln

    x, mean = _floats(x), _floats(mean)
    paid = (x > 0) & (mean > 0)
    if paid.sum() < 10:
        raise ValueError(
            f"{paid.sum()} customers bought again and paid: ten were expected, to learn what a"
            " purchase is worth"
        )
    x, mean = x[paid], mean[paid]

    def loss(logs: Floats) -> float:
        p, q, v = np.exp(logs)
        terms = gammaln(p * x + q) - gammaln(p * x) - gammaln(q) + q * np.log(v)
        terms += (p * x - 1) * np.log(mean) + p * x * np.log(x) - (p * x + q) * np.log(x * mean + v)
        return float(-terms.sum())

    logs, least = _minimize(loss, [np.log([6.0, 4.0, mean.mean()])])
    p, q, v = np.exp(logs)
    return GammaGamma(float(p), float(q), float(v), -least)


def _minimize(loss: Any, starts: list[Floats]) -> tuple[Floats, float]:
    """The logs of the parameters, and the loss there; the best of several starts."""
    from scipy.optimize import minimize

    found = []
    with np.errstate(all="ignore"):
        for start in starts:
            done = minimize(
                loss, start, method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-7}
            )
            if np.isfinite(done.fun):
                found.append((done.fun, done.x))
    # On the way to a flat top one parameter runs off; its expectations would be none.
    if not found or np.abs(min(found, key=lambda each: each[0])[1]).max() > 25:
        raise ValueError("the likelihood has no maximum: these purchases are no BG/NBD process")
    least, logs = min(found, key=lambda each: each[0])
    return logs, float(least)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
