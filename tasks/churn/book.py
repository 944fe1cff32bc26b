"""The book of subscribers read for a model: features, labels and purchase histories, range by range.

Only one range is in memory at a time; what training keeps of it is a sample.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
import psycopg
from numpy.typing import NDArray
from sqlalchemy import text

from models.session import Database
from tasks.audience import rfm
from tasks.churn import bulk, features
from tasks.churn.contest import Part
from tasks.churn.kinds import Kind, seen_sql

RANGE: Final = 200_000  # subscribers read at once

# One core of the server is enough for what nobody waits for. Sorted events are added up one
# subscriber after the other, in the cache: hashed, each event would look its subscriber up in 100 MB,
# which takes half as long again.
ROOM: Final = (
    "SET LOCAL work_mem = '128MB'; SET LOCAL max_parallel_workers_per_gather = 0;"
    " SET LOCAL enable_hashagg = off"
)
LEVELS: Final = 20  # plans told apart

Ids = NDArray[np.int64]

SPAN = text(
    "SELECT min(e.occurred_at), max(e.occurred_at) FROM event e WHERE e.occurred_at <= :now"
)
PLANS = text("""
SELECT e.properties ->> 'plan' AS plan FROM event e
WHERE e.name LIKE 'subscription.%' AND e.properties ->> 'plan' IS NOT NULL
GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT :n
""")

# Purchases of one day are one: a repeat is another day. What the first day brought is no sign of
# what a repeat is worth.
HISTORY: Final = f"""
WITH bought AS (
    SELECT e.subscriber_id, CAST(e.occurred_at AT TIME ZONE 'UTC' AS date) AS d,
        sum({rfm.AMOUNT_OF}) AS worth
    FROM event e WHERE {rfm.WINDOW} AND e.name = %(purchase)s
    GROUP BY 1, 2)
SELECT subscriber_id, CAST(count(*) - 1 AS float8) AS x, CAST(max(d) - min(d) AS float8) AS t_x,
    CAST(CAST(%(cutoff)s AT TIME ZONE 'UTC' AS date) - min(d) AS float8) AS "T",
    coalesce((sum(worth) - (array_agg(worth ORDER BY d))[1]) / nullif(count(*) - 1, 0), 0) AS mean,
    sum(worth) AS spent
FROM bought GROUP BY subscriber_id ORDER BY subscriber_id
"""
HISTORY_COLUMNS: Final = ("subscriber_id", "x", "t_x", "T", "mean", "spent")

SPENT: Final = f"""
SELECT e.subscriber_id, sum({rfm.AMOUNT_OF}) AS spent FROM event e
WHERE e.subscriber_id >= %(first)s AND e.subscriber_id < %(end)s
  AND e.occurred_at >= %(cutoff)s AND e.occurred_at < %(until)s AND e.name = %(purchase)s
GROUP BY e.subscriber_id ORDER BY e.subscriber_id
"""


@dataclass(frozen=True, slots=True)
class Rows:
    """Subscribers at a cutoff: ids (n,), and their table (n, m) in the same order."""

    ids: Ids
    table: pd.DataFrame


@contextmanager
def reading(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A connection of its own, in a transaction with room to group a range of subscribers."""
    with database.raw() as raw, raw.transaction():
        raw.execute(ROOM)
        yield raw


def features_of(
    connection: psycopg.Connection[Any],
    kind: Kind,
    cutoff: dt.datetime,
    first: int,
    end: int,
    plans: Sequence[str],
) -> Rows:
    """The features of a range of ids, of those who can have this score.

    Raises:
        SeesTheFuture: a feature knows what is after the cutoff.
    """
    parameters = features.parameters(cutoff, first, end, plans)
    found = bulk.read(
        connection, features.features_sql(bought=kind.bought), parameters, features.COLUMNS
    )
    ids = found.pop("subscriber_id")
    return Rows(ids, features.table(found, plans))


def features_at(
    connection: psycopg.Connection[Any],
    ids: Sequence[int],
    epochs: Sequence[float],
    plans: Sequence[str],
) -> Rows:
    """The features of some, each at a cutoff of their own; who has no event before it has no row.

    Raises:
        SeesTheFuture: a feature knows what is after the cutoff.
    """
    asked = features.each_parameters(ids, epochs, plans)
    found = bulk.read(connection, features.features_sql(each=True), asked, features.COLUMNS)
    known = found.pop("subscriber_id")
    return Rows(known, features.table(found, plans))


def histories_of(
    connection: psycopg.Connection[Any], cutoff: dt.datetime, first: int, end: int
) -> Rows:
    """The purchase histories of a range: x, t_x, T in days, mean and spent."""
    found = bulk.read(connection, HISTORY, rfm.parameters(cutoff, first, end), HISTORY_COLUMNS)
    ids = found.pop("subscriber_id")
    return Rows(ids, pd.DataFrame(found))


@dataclass(frozen=True)
class Book:
    """All subscribers, for training.

    Args:
        database: where they are.
        size: subscribers a range.
        most: subscribers kept of them; the rest is left out by the hash of their id.
    """

    database: Database
    size: int = RANGE
    most: int = 200_000

    def span(self) -> tuple[dt.datetime, dt.datetime]:
        """When the first event was, and when the last one was over; the future has none.

        Raises:
            LookupError: there are none.
        """
        with self.database.snapshot() as connection:
            now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            first, last = connection.execute(SPAN, {"now": now}).one()
        if first is None:
            raise LookupError("no event")
        return first, last + dt.timedelta(microseconds=1)

    def plans(self) -> list[str]:
        """The commonest plans that events tell."""
        with self.database.snapshot() as connection:
            return list(connection.execute(PLANS, {"n": LEVELS}).scalars())

    def part(
        self,
        kind: Kind,
        cutoff: dt.datetime,
        until: dt.datetime,
        plans: Sequence[str],
        mine: Callable[[Ids], NDArray[np.bool_]],
    ) -> tuple[Ids, Part]:
        """Features before `cutoff`, and what happened from it to `until`, of whom `mine` says yes."""
        ids, tables, positives = [], [], []
        for raw, first, end in self._ranges():
            rows = features_of(raw, kind, cutoff, first, end, plans)
            keep = mine(rows.ids) & self._sampled(rows.ids)
            parameters = rfm.parameters(cutoff, first, end) | {"until": until}
            seen = bulk.read(raw, seen_sql(kind), parameters, ("subscriber_id", "seen"))
            happened = np.isin(rows.ids, seen["subscriber_id"], assume_unique=True)
            ids.append(rows.ids[keep])
            tables.append(rows.table[keep])
            positives.append((happened != kind.absent)[keep])
        if not tables:
            return np.empty(0, np.int64), Part(features.empty(plans), np.empty(0, bool))
        table = pd.concat(tables, ignore_index=True)
        return np.concatenate(ids), Part(table, np.concatenate(positives))

    def histories(self, cutoff: dt.datetime, mine: Callable[[Ids], NDArray[np.bool_]]) -> Rows:
        """Purchase histories before `cutoff`, of whom `mine` says yes."""
        ids, tables = [], []
        for raw, first, end in self._ranges():
            rows = histories_of(raw, cutoff, first, end)
            keep = mine(rows.ids) & self._sampled(rows.ids)
            ids.append(rows.ids[keep])
            tables.append(rows.table[keep])
        if not tables:
            return Rows(np.empty(0, np.int64), pd.DataFrame(columns=list(HISTORY_COLUMNS[1:])))
        return Rows(np.concatenate(ids), pd.concat(tables, ignore_index=True))

    def spent(self, cutoff: dt.datetime, until: dt.datetime, ids: Ids) -> NDArray[np.float64]:
        """What each of `ids` (sorted) spent from `cutoff` to `until`."""
        total = np.zeros(len(ids))
        for raw, first, end in self._ranges():
            parameters = rfm.parameters(cutoff, first, end) | {"until": until}
            found = bulk.read(raw, SPENT, parameters, ("subscriber_id", "spent"))
            known = np.isin(found["subscriber_id"], ids)
            at = np.searchsorted(ids, found["subscriber_id"][known])
            total[at] = found["spent"][known]
        return total

    def _ranges(self) -> Iterator[tuple[psycopg.Connection[Any], int, int]]:
        with self.database.snapshot() as connection:
            ranges = list(rfm.id_ranges(connection, self.size))
        for first, end in ranges:
            with reading(self.database) as raw:
                yield raw, first, end

    def _sampled(self, ids: Ids) -> NDArray[np.bool_]:
        share = min(1.0, self.most / max(self.people, 1))
        return hashed(ids, salt=1) < share

    @cached_property
    def people(self) -> int:
        """Subscribers, about: what the planner reckons, which is free."""
        with self.database.snapshot() as connection:
            return int(
                connection.execute(
                    text("SELECT greatest(reltuples, 0) FROM pg_class WHERE relname = 'subscriber'")
                ).scalar_one()
            )


def hashed(ids: Ids, salt: int = 0) -> NDArray[np.float64]:
    """A number from 0 to 1 for each id, ever the same: who belongs to which part (splitmix64)."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(salt + 1)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.asarray(z / np.float64(2**64))
