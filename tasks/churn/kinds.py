"""The scores that there are: what each foretells, of whom, and the one-line rule it has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from tasks.churn.contest import Baseline
from tasks.churn.features import CLICKED
from tasks.churn.uplift_name import is_uplift, parse
from tasks.errors import Permanent

CHURN: Final = "churn"
ENGAGEMENT: Final = "engagement"
CLV: Final = "clv"


@dataclass(frozen=True, slots=True)
class Kind:
    """A score.

    Attributes:
        name: as `score('…')` asks for it.
        foretells: in words.
        of: what the positive class is called.
        horizon_days: how far it looks, by default.
        bought: whether only those who ever bought have one.
        seen: SQL over `event e`: what happens to somebody within the horizon.
        absent: the positive class is those to whom it does not happen.
    """

    name: str
    foretells: str
    of: str
    horizon_days: float
    bought: bool
    seen: str = ""
    absent: bool = False


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(CHURN, "the probability that a customer buys nothing within the horizon", "churned",
             91, True, "e.name = %(purchase)s", True),
        Kind(ENGAGEMENT, "the probability that a human click comes within the horizon", "clicked",
             7, False, f"e.name = '{CLICKED}' AND e.properties ->> 'machine' IS DISTINCT FROM 'true'"),
        Kind(CLV, "what a customer will spend within a year", "", 91, True),
    )
}  # fmt: skip


def named(name: str) -> Kind:
    """The score of that name.

    Raises:
        Permanent: there is none.
    """
    if is_uplift(name):
        asked = parse(name)
        what = f"the mails of {asked}" if asked.step is None else f"the arm of {asked}"
        said = f"what {what} add to the probability of the goal, were they to come in now"
        return Kind(name, said, "converted", 0, False)
    if name not in KINDS:
        raise Permanent(
            f"there is no score {name!r}: expected one of {', '.join(KINDS)}, or uplift:SEQUENCE"
        )
    return KINDS[name]


def rule(kind: Kind, table: pd.DataFrame, horizon_days: float) -> Baseline:
    """The one-line rule: whoever has been away for longer than the horizon stays away."""
    away = table["recency_days" if kind.absent else "click_days_ago"].to_numpy(dtype=float)
    away = np.where(np.isnan(away), np.inf, away)
    # Ranks need finite numbers; nobody has been away for a thousand years.
    away = np.minimum(away, 365_000.0)
    if kind.absent:
        return Baseline("recency rule", away, horizon_days)
    return Baseline("recency rule", -away, -horizon_days)


def seen_sql(kind: Kind) -> str:
    """Ids of a range to whom it happens from the cutoff to its horizon, each once, with a 1."""
    return f"""
SELECT e.subscriber_id, CAST(1 AS float8) FROM event e
WHERE e.subscriber_id >= %(first)s AND e.subscriber_id < %(end)s
  AND e.occurred_at >= %(cutoff)s AND e.occurred_at < %(until)s AND {kind.seen}
GROUP BY e.subscriber_id ORDER BY e.subscriber_id
"""


def shown(value: Any) -> str:
    """A score as people read it."""
    return f"{value:,.2f}".replace(",", " ")
