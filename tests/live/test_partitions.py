"""The months of events: whoever reads while one is made reads all of them."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

from models.session import Database
from tasks.upkeep.reap import ensure_partition
from tests.live import seeds
from tests.live.fleet import eventually

COUNT = text("SELECT count(*) FROM event")
WAITS = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


def counted(database: Database) -> int:
    with database.transaction() as connection:
        return int(connection.execute(COUNT).scalar_one())


def test_who_reads_while_a_month_is_made_reads_every_event(database: Database) -> None:
    [who] = seeds.subscribers(database, 1)
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO event (subscriber_id, name, occurred_at)"
                " SELECT :who, 'purchase', '2031-05-02T00:00Z' FROM generate_series(1, 20)"
            ),
            {"who": who},
        )
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as connection:
            assert ensure_partition(connection, dt.date(2031, 5, 1))
            reading = pool.submit(counted, database)
            eventually(lambda: connection.execute(WAITS).scalar_one() > 0)
        assert reading.result(10) == 20
