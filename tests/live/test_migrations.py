"""The schema goes up and down, and is the one that the models describe."""

from __future__ import annotations

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from models import tables
from models.base import Base
from models.migrate import current, downgrade, head, migrate, role_faults
from models.session import Database

assert tables  # the metadata is whole only once they are imported


def test_the_schema_goes_down_to_nothing_and_up_again(database: Database) -> None:
    assert downgrade(database, "base") is None
    with database.transaction() as connection:
        left = connection.execute(
            text(
                "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname = 'public' AND c.relname <> 'alembic_version'"
                " AND c.relname <> 'alembic_version_pkc'"
            )
        ).scalar_one()
    assert left == 0
    assert migrate(database) == head()


def test_regions_and_segments_are_put_aside_by_an_older_schema_and_nothing_is_sent_from_elsewhere(
    database: Database,
) -> None:
    line = (
        "INSERT INTO schedule (key, cron, zone, target, catch_up, max_lateness, tzdata)"
        " VALUES ('{0}', '0 9 * * 1', 'UTC', '{1}', 'latest', '1 h', '2026.6')"
    )
    everybody = '{"sequence"\\: "a", "audience"\\: "all"}'
    segment = '{"into"\\: "a", "segment"\\: "true"}'
    with database.transaction() as connection:
        for statement in (
            "UPDATE stream SET region = 'eu' WHERE key = 'marketing'",
            line.format("all", everybody),
            line.format("some", segment),
            "INSERT INTO schedule_fire (schedule_key, fire_at, state, target)"
            f" VALUES ('some', now(), 'claimed', '{segment}')",
            "INSERT INTO canary VALUES ('send@eu', 'w', now(), 0.1), ('send', 'w2', now(), 0.1)",
        ):
            connection.execute(text(statement))
    assert downgrade(database, "0002") == "0002"
    with database.transaction() as connection:
        paused = connection.execute(
            text("SELECT key, pause_reason FROM stream WHERE paused_at IS NOT NULL")
        ).one()
        assert paused.key == "marketing" and "region eu" in paused.pause_reason
        assert connection.execute(text("SELECT key FROM schedule")).scalars().all() == ["all"]
        assert connection.execute(text("SELECT state FROM schedule_fire")).scalar_one() == "missed"
        assert connection.execute(text("SELECT pool FROM canary")).scalars().all() == ["send"]
    assert migrate(database) == head()


def test_the_models_describe_what_the_migrations_make(database: Database) -> None:
    with database.transaction() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                # Partitions are made by migrations and upkeep, and are no models.
                "include_name": lambda name, kind, _: not str(name).startswith("event_default"),
            },
        )
        assert compare_metadata(context, Base.metadata) == []


def test_migrate_sets_what_the_role_needs(database: Database) -> None:
    migrate(database)
    database.engine.dispose()
    with database.transaction() as connection:
        assert role_faults(connection) == []
        assert current(connection) == head()


def test_a_migration_that_gets_no_lock_changes_nothing(database: Database) -> None:
    with psycopg.connect(database.url) as holder:
        holder.execute("LOCK TABLE message IN ACCESS SHARE MODE")
        with pytest.raises(OperationalError, match="lock timeout"):
            downgrade(database, "base", lock_timeout="100ms")
    with database.transaction() as connection:
        assert current(connection) == head()
