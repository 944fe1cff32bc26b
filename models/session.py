"""The one place where connections and transactions are opened.

`Database` gives SQLAlchemy connections inside a transaction, and raw psycopg connections for the
two paths that need the protocol itself: COPY, and the delivery cycle.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError


class DatabaseSettings(BaseSettings):
    """Where Postgres is: `DRIPFLEET_DATABASE_URL`, a libpq URL."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    database_url: SecretStr = Field(description="postgresql://user:password@host:port/database")


def redacted(url: str) -> str:
    """The URL as it may be shown: its password as ***."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


class BadDatabaseUrl(ValueError):
    """A URL that names no Postgres database."""


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        known = parsed.get_backend_name() in ("postgresql", "postgres") and parsed.port != 0
    except (ArgumentError, ValueError):
        known = False
    if not known:
        raise BadDatabaseUrl(
            "DRIPFLEET_DATABASE_URL is no Postgres URL: expected"
            " postgresql://user:password@host:5432/database; correct it"
        )
    return parsed.set(drivername="postgresql+psycopg")


class Database:
    """A Postgres database, reached through a small pool.

    Args:
        url: libpq URL (`postgresql://…`).
        name: shown by Postgres as `application_name`; by default `dripfleet`.
        size: connections kept; twice as many may be open for a moment.

    Raises:
        BadDatabaseUrl: it is no URL of a Postgres database.
    """

    def __init__(self, url: str, name: str = "dripfleet", size: int = 4) -> None:
        self.url = url
        self.name = name
        self.engine = create_engine(
            _parsed(url),
            pool_size=size,
            max_overflow=size,
            pool_pre_ping=True,
            hide_parameters=True,  # an error is logged, and parameters may be addresses
            connect_args={"application_name": name, "connect_timeout": 5},
        )

    def __repr__(self) -> str:
        return f"Database({redacted(self.url)!r})"

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A READ COMMITTED transaction: committed at the end, rolled back on any exception."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One REPEATABLE READ, READ ONLY transaction: every query sees the same instant."""
        with self.engine.connect() as connection:
            connection = connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            with connection.begin():
                yield connection

    def raw(self) -> psycopg.Connection[tuple[object, ...]]:
        """A psycopg connection of its own, in autocommit; the caller closes it."""
        return psycopg.connect(
            self.url, autocommit=True, application_name=self.name, connect_timeout=5
        )

    def close(self) -> None:
        """Close the pool; connections that are out are closed when they come back."""
        self.engine.dispose()
