"""What subscribers are described by before they are segmented, read in ranges of ids.

Recency, frequency and value mean what they mean for churn (`tasks.audience.rfm`); beside them
stands engagement, the other events of the last 90 days. Nothing at or after the cutoff is seen.
Whoever never bought has no recency and is in no range: such people are a segment of their own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from tasks.audience import rfm
from tasks.quantum.engine.problem import Floats

COLUMNS: Final = ("recency_days", "frequency", "monetary", "engagement")
ENGAGED_DAYS: Final = 90
VERSION: Final = 1
"""Of the meaning of the columns: another one is another coreset."""
RANGE: Final = 20_000

_RFM = ", ".join(f"{rfm.AGGREGATES[name]} AS {name}" for name in COLUMNS[:3])
# One row for each subscriber of a range who bought before the cutoff.
FEATURES = f"""
SELECT e.subscriber_id, {_RFM},
    CAST(count(*) FILTER (WHERE e.name <> %(purchase)s
        AND e.occurred_at >= %(cutoff)s - make_interval(days => {ENGAGED_DAYS})) AS float8) AS engagement
FROM event e WHERE {rfm.WINDOW}
GROUP BY e.subscriber_id HAVING bool_or(e.name = %(purchase)s) ORDER BY e.subscriber_id
"""
# What a coreset depends on: the events before the cutoff, by their number and newest id.
FINGERPRINT = text("""
SELECT count(*) AS events, coalesce(max(e.id), 0) AS newest FROM event e WHERE e.occurred_at < :cutoff
""")


@dataclass(frozen=True)
class Rows:
    """Features of some subscribers.

    Attributes:
        ids: int64, shape (n,), rising.
        values: float64, shape (n, 4): days, purchases, the shop's currency, events.
    """

    ids: NDArray[np.int64]
    values: Floats


def read(connection: Connection, cutoff: dt.datetime, first: int, end: int) -> Rows:
    """Of those subscribers first ≤ id < end who bought before the cutoff."""
    found = connection.exec_driver_sql(FEATURES, rfm.parameters(cutoff, first, end)).all()
    ids = np.array([row[0] for row in found], dtype=np.int64)
    values = np.array([row[1:] for row in found], dtype=np.float64)
    return Rows(ids, values.reshape(len(ids), len(COLUMNS)))


def ranges(connection: Connection) -> Iterator[tuple[int, int]]:
    """Half-open ranges of ids that cover all subscribers."""
    return rfm.id_ranges(connection, RANGE)


def fingerprint(connection: Connection, cutoff: dt.datetime) -> dict[str, Any]:
    """What the features of everybody were computed from."""
    row = connection.execute(FINGERPRINT, {"cutoff": cutoff}).one()
    return {
        "version": VERSION,
        "cutoff": cutoff.astimezone(dt.UTC).isoformat(),
        "events": row.events,
        "newest": row.newest,
    }


def tamed(values: Floats) -> Floats:
    """sign(x)·log(1+|x|): sums and counts have long tails, and one whale must not be a segment."""
    found: Floats = np.sign(values) * np.log1p(np.abs(values))
    return found
