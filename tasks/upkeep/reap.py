"""What is brought back because nobody holds it any more; and what upkeep keeps ready."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import structlog
from sqlalchemy import Connection, text

from models.session import Database
from tasks.crashpoint import reached
from tasks.moves import doubt, erase, pause
from tasks.moves import reap as moves
from tasks.moves.settings import DeliverySettings

log = structlog.get_logger()

BATCH = 500

# Counters of backends that are gone, folded into shard 0: rows would else grow with restarts.
# Only one at a time (two-argument key space), and never a shard whose backend may still write.
FOLD = text("""
WITH alone AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(7, 2) AS got),
gone AS (
    DELETE FROM counter c USING alone
    WHERE alone.got AND c.shard <> 0
      AND NOT EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.pid = c.shard)
    RETURNING c.sequence_key, c.step_id, c.outcome, c.n)
INSERT INTO counter AS c (sequence_key, step_id, shard, outcome, n)
SELECT sequence_key, step_id, 0, outcome, sum(n) FROM gone GROUP BY 1, 2, 4 ORDER BY 1, 2, 4
ON CONFLICT (sequence_key, step_id, shard, outcome) DO UPDATE SET n = c.n + excluded.n
""")

PARTITION_EXISTS = text("SELECT to_regclass(:name) IS NOT NULL")


def reap(database: Database, settings: DeliverySettings) -> dict[str, int]:
    """Give back expired leases, doubt expired armed leases, park and wake; returns counts."""
    return {
        "released": _drained(database, lambda c: moves.reap_working(c, settings, BATCH)),
        "in_doubt": _drained(database, lambda c: doubt.reap_armed(c, settings, BATCH)),
        "parked": _drained(database, pause.park),
        "woken": _drained(database, pause.wake),
    }


def keep_house(database: Database) -> None:
    """What need not be done at every tick: partitions for the events to come, folded counters."""
    with database.transaction() as connection:
        connection.execute(FOLD)
    forget_erased(database)
    today = dt.datetime.now(dt.UTC).date()
    month = today.replace(day=1)
    for _ in range(2):
        with database.transaction() as connection:
            if ensure_partition(connection, month):
                log.info("partition_made", month=month.isoformat())
        month = (month + dt.timedelta(days=32)).replace(day=1)


def forget_erased(database: Database) -> int:
    """Take what has come of erased subscribers since: by mails that were in flight, or from producers."""
    changed, after = 0, 0
    while True:
        with database.transaction() as connection:
            n, after = erase.sweep(connection, after)
        changed += n
        if not after:
            return changed


def ensure_partition(connection: Connection, month: dt.date) -> bool:
    """Make the partition of `event` for a month, with what the default one holds of it.

    Returns:
        Whether it was made now.
    """
    name = f"event_{month:%Y_%m}"
    if connection.execute(PARTITION_EXISTS, {"name": name}).scalar_one():
        return False
    end = (month + dt.timedelta(days=32)).replace(day=1)
    span = {"start": month.isoformat() + "T00:00:00Z", "end": end.isoformat() + "T00:00:00Z"}
    connection.execute(text("SELECT set_config('lock_timeout', '2s', true)"))
    # Readers too: one that was planned before would look for the moved rows where they were, and an
    # evaluation of that moment would find nobody.
    connection.execute(text("LOCK TABLE event IN ACCESS EXCLUSIVE MODE"))
    connection.execute(
        text(
            f"CREATE TABLE {name} (LIKE event INCLUDING DEFAULTS"
            " INCLUDING CONSTRAINTS INCLUDING INDEXES)"
        )
    )
    # Postgres refuses a partition whose rows stand in the default one.
    connection.execute(
        text(
            "WITH moved AS (DELETE FROM event_default"
            " WHERE occurred_at >= CAST(:start AS timestamptz)"
            " AND occurred_at < CAST(:end AS timestamptz) RETURNING *)"
            f" INSERT INTO {name} SELECT * FROM moved"
        ),
        span,
    )
    connection.execute(
        text(
            f"ALTER TABLE event ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{span['start']}') TO ('{span['end']}')"
        )
    )
    return True


def _drained(database: Database, step: Callable[[Connection], int]) -> int:
    """Run a step, a transaction each time, until it finds less than a full batch."""
    total = 0
    while True:
        with database.transaction() as connection:
            count = step(connection)
            if count:
                reached("reap.moved")
        if count:
            reached("reap.committed")
        total += count
        if count < BATCH:
            return total
