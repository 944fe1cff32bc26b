"""How the making of words stands, in a few figures: for the fleet's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from tasks.personalize.prices import MILLION

BOUND = 100_000
"""Wanted texts are counted up to here."""

# Only those that somebody still waits for.
WANTED = text("""
SELECT t.why, count(*) AS n FROM (
    SELECT coalesce(w.why, 'not_ready') AS why FROM wording w
    WHERE w.state = 'wanted' AND EXISTS (SELECT FROM asked a WHERE a.key = w.key)
    LIMIT :bound) t
GROUP BY 1
""")
CLOSED = text("""
SELECT c.model, CASE WHEN c.open_until > clock_timestamp()
    THEN extract(epoch FROM c.open_until - clock_timestamp()) ELSE 0 END::float8 AS seconds
FROM model_circuit c
""")
BATCHES = text("""
SELECT count(*) FILTER (WHERE b.state = 'made') AS made,
    count(*) FILTER (WHERE b.state = 'sent') AS sent, coalesce(sum(b.saved), 0)::bigint AS saved
FROM word_batch b
""")


@dataclass(frozen=True, slots=True)
class Overview:
    """The figures.

    Attributes:
        wanted: reason → texts that are not there yet, `budget` always among them.
        closed: model → seconds for which nobody asks it still, because it fails; 0: it is asked.
        batches: `made`, `sent` → batches under way.
        saved: by batches, ever, in the currency of the price table.
    """

    wanted: Mapping[str, int]
    closed: Mapping[str, float]
    batches: Mapping[str, int]
    saved: float


def overview(connection: Connection) -> Overview:
    """Count; use it in `Database.snapshot()`."""
    wanted = {row.why: row.n for row in connection.execute(WANTED, {"bound": BOUND})}
    batches = connection.execute(BATCHES).one()
    return Overview(
        {"budget": 0, **wanted},
        {row.model: row.seconds for row in connection.execute(CLOSED)},
        {"made": batches.made, "sent": batches.sent},
        batches.saved / MILLION,
    )
