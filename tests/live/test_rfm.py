"""Recency, frequency, monetary: what was bought strictly before the cutoff, and nothing else."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.audience import rfm
from tests.live import seeds

CUTOFF = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)


def event(database: Database, subscriber: int, days_before: float, amount: object = None) -> None:
    properties = {} if amount is None else {"amount": amount}
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO event (subscriber_id, name, occurred_at, properties)"
                " VALUES (:id, 'purchase', :at, CAST(:properties AS jsonb))"
            ),
            {
                "id": subscriber,
                "at": CUTOFF - dt.timedelta(days=days_before),
                "properties": json.dumps(properties),
            },
        )


def rows(database: Database, first: int, end: int) -> list[tuple[object, ...]]:
    with database.transaction() as connection:
        found = connection.exec_driver_sql(rfm.rfm_sql(), rfm.parameters(CUTOFF, first, end)).all()
    return [tuple(row) for row in found]


def test_what_was_bought_before_the_cutoff_is_counted_and_nothing_at_or_after_it(
    database: Database,
) -> None:
    one, two, three = seeds.subscribers(database, 3)
    event(database, one, 10, 12.5)
    event(database, one, 2, "7.5")
    event(database, one, 0, 1000)
    event(database, one, -5, 1000)
    event(database, two, 0, 1)
    event(database, three, 1, "a lot")
    assert rows(database, one, three + 1) == [
        (one, 2.0, 2.0, 20.0, 10.0),
        (three, 1.0, 1.0, 0.0, 1.0),
    ]
    assert rows(database, one, three) == [(one, 2.0, 2.0, 20.0, 10.0)]


def test_ranges_cover_everybody_once_over_gaps_in_the_ids(database: Database) -> None:
    ids = seeds.subscribers(database, 10)
    with database.transaction() as connection:
        connection.execute(text("DELETE FROM subscriber WHERE id = ANY(:g)"), {"g": ids[3:6]})
    with database.transaction() as connection:
        ranges = list(rfm.id_ranges(connection, 3))
    left = [i for i in ids if i not in ids[3:6]]
    assert [[i for i in left if a <= i < b] for a, b in ranges] == [left[:3], left[3:6], left[6:]]


def test_a_cutoff_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no zone"):
        rfm.parameters(dt.datetime(2026, 1, 1), 1, 2)  # noqa: DTZ001
