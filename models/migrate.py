"""Bring the schema to a revision, and know which one stands."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from models.session import Database

# The queue's plans must not depend on the statistics of the moment, and a JIT of small statements
# costs more than they do. Set on the role: a pooler keeps no session's settings.
ROLE_SETTINGS = {"plan_cache_mode": "force_generic_plan", "jit": "off"}

# Two operators may start `migrate` at once: the second waits here (two-argument key space;
# the one-argument one belongs to the subscribers).
MIGRATION_LOCK = (7, 1)


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "models:migrations")
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest revision in this code."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def current(connection: Connection) -> str | None:
    """The revision that stands in the database; None: it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate(database: Database, revision: str = "head", lock_timeout: str = "5s") -> str | None:
    """Upgrade to `revision` and set what the role needs.

    A migration that cannot get a lock within `lock_timeout` fails and changes nothing, rather than
    stand in front of the fleet's own statements.

    Returns:
        The revision that stands afterwards.
    """
    with database.transaction() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:a, :b)"), _lock())
        connection.execute(text("SELECT set_config('lock_timeout', :t, true)"), {"t": lock_timeout})
        command.upgrade(_config(connection), revision)
        _set_role(connection)
        return current(connection)


def downgrade(database: Database, revision: str, lock_timeout: str = "5s") -> str | None:
    """Go back to `revision` (`base`: an empty schema); returns what stands afterwards."""
    with database.transaction() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:a, :b)"), _lock())
        connection.execute(text("SELECT set_config('lock_timeout', :t, true)"), {"t": lock_timeout})
        command.downgrade(_config(connection), revision)
        return current(connection)


def role_faults(connection: Connection) -> list[str]:
    """Names of the role's settings that are not as `migrate` leaves them."""
    rows = connection.execute(
        text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)"),
        {"names": list(ROLE_SETTINGS)},
    )
    return sorted(name for name, value in rows if ROLE_SETTINGS[name] != value)


def _set_role(connection: Connection) -> None:
    for name, value in ROLE_SETTINGS.items():
        connection.execute(
            text(
                f"DO $$ BEGIN EXECUTE format('ALTER ROLE %I IN DATABASE %I SET {name} = {value}',"
                " current_user, current_database()); END $$"
            )
        )


def _lock() -> dict[str, int]:
    return {"a": MIGRATION_LOCK[0], "b": MIGRATION_LOCK[1]}
