"""Whether an arm does harm: a count of complaints that may be looked at all the time. No numpy."""

from __future__ import annotations

import math
from typing import Final

WORSE: Final = (1.5, 2.0, 3.0, 5.0, 10.0)
"""How many times the limit a harmful rate may be: the alternatives, mixed evenly."""

ALPHA: Final = 0.05


def evidence(events: int, trials: int, limit: float) -> float:
    """Return how much likelier the count is under a rate above the limit than under the limit.

    The mean of the likelihood ratios of `WORSE`. Where the rate is at most ``limit`` it is a
    supermartingale, so it ever exceeds 1/α with a chance of at most α (Ville 1939), however often
    one looks.

    Args:
        events: complaints, or whatever is counted.
        trials: mails that could cause one; at least ``events`` are taken to have been.
        limit: the largest rate that is no harm, 0 < limit < 1.

    Raises:
        ValueError: a limit that is no rate, or a count below 0.
    """
    if not 0 < limit < 1 or events < 0 or trials < 0:
        raise ValueError(
            f"{events} of {trials} against a limit of {limit:g}: expected counts from 0 on and a"
            " limit between 0 and 1"
        )
    others = max(trials - events, 0)
    total = 0.0
    for times in WORSE:
        rate = min(limit * times, (1 + limit) / 2)
        log = (
            events * math.log(rate / limit)
            + others * math.log1p(-rate)
            - others * math.log1p(-limit)
        )
        total += math.exp(min(log, 700.0))
    return total / len(WORSE)


def harmful(events: int, trials: int, limit: float, alpha: float = ALPHA) -> bool:
    """Tell whether the rate is above the limit beyond doubt: `evidence` of at least 1/α."""
    return evidence(events, trials, limit) >= 1 / alpha
