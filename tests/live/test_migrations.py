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
