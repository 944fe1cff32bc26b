"""Recency, frequency and monetary value of subscribers, as of an instant, in SQL over ranges of ids.

One meaning for everybody who scores or segments: the fragments of `AGGREGATES` can stand in a wider
query over the same events, and `rfm_sql` is the plain one. Nothing at or after the cutoff is seen.
The text is psycopg's (`%(name)s`): COPY takes it, and SQLAlchemy through `exec_driver_sql`.

Source: Bult and Wansbeek, "Optimal Selection for Direct Mail", Marketing Science 14 (1995).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Final

from sqlalchemy import Connection, text

PURCHASE: Final = "purchase"
"""The event that is a purchase."""
AMOUNT: Final = "amount"
"""Its property that holds the value, a number or a text that reads as one."""

# A value that reads as no number counts as a purchase of nothing; larger ones are no prices. A number
# of JSON is known by the order of jsonb (numbers lie between texts and truth values), which costs a
# fifth of reading it as a text; the pattern is for amounts that were sent as texts.
AMOUNT_OF: Final = (
    "CASE WHEN e.properties -> %(amount)s > '-1e12' AND e.properties -> %(amount)s < '1e12'"
    " THEN CAST(e.properties -> %(amount)s AS float8)"
    r" WHEN e.properties ->> %(amount)s ~ '^-?\d{1,12}(\.\d+)?$'"
    " THEN CAST(e.properties ->> %(amount)s AS float8) ELSE 0 END"
)

_BOUGHT: Final = "e.name = %(purchase)s"
_DAYS: Final = "extract(epoch FROM %(cutoff)s - {}) / 86400"

AGGREGATES: Final[Mapping[str, str]] = {
    "recency_days": f"CAST({_DAYS.format(f'max(e.occurred_at) FILTER (WHERE {_BOUGHT})')} AS float8)",
    "frequency": f"CAST(count(*) FILTER (WHERE {_BOUGHT}) AS float8)",
    "monetary": f"CAST(sum({AMOUNT_OF}) FILTER (WHERE {_BOUGHT}) AS float8)",
    "tenure_days": f"CAST({_DAYS.format(f'min(e.occurred_at) FILTER (WHERE {_BOUGHT})')} AS float8)",
}
"""SQL of each column over `event e` grouped by subscriber, all float8.

recency_days: days from the last purchase to the cutoff. frequency: purchases. monetary: sum of
their amounts, in the shop's currency. tenure_days: days from the first purchase to the cutoff.
"""

COLUMNS: Final = ("subscriber_id", *AGGREGATES)

# Half open, so that ranges meet without a gap or a row in both.
WINDOW: Final = (
    "e.subscriber_id >= %(first)s AND e.subscriber_id < %(end)s AND e.occurred_at < %(cutoff)s"
)


def rfm_sql() -> str:
    """One row for each subscriber of a range who bought before the cutoff: `COLUMNS`, by id.

    Its parameters are those of `parameters`. Subscribers without a purchase have no row.
    """
    columns = ", ".join(f"{sql} AS {name}" for name, sql in AGGREGATES.items())
    return (
        f"SELECT e.subscriber_id, {columns} FROM event e"
        f" WHERE {WINDOW} AND {_BOUGHT} GROUP BY e.subscriber_id ORDER BY e.subscriber_id"
    )


def parameters(cutoff: dt.datetime, first: int, end: int) -> dict[str, object]:
    """What the fragments ask for.

    Args:
        cutoff: aware; events strictly before it count.
        first: the first subscriber id of the range.
        end: the first id after it.
    """
    if cutoff.tzinfo is None:
        raise ValueError(f"cutoff {cutoff} has no zone: an aware instant was expected")
    return {
        "cutoff": cutoff, "first": first, "end": end, "purchase": PURCHASE, "amount": AMOUNT
    }  # fmt: skip


def id_ranges(connection: Connection, size: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of subscriber ids of about `size` subscribers each, which cover them all.

    Gaps in the ids cost nothing: the bounds are ids that exist.
    """
    bounds = text("""
SELECT x.id FROM (SELECT s.id, row_number() OVER (ORDER BY s.id) - 1 AS n FROM subscriber s) x
WHERE x.n % :size = 0 ORDER BY x.id
""")
    last = text("SELECT max(s.id) + 1 FROM subscriber s")
    starts = [int(each) for each in connection.execute(bounds, {"size": size}).scalars()]
    end = connection.execute(last).scalar_one()
    yield from zip(starts, [*starts[1:], end], strict=True) if starts else ()
