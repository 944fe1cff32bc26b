"""Servers for the tests: one embedded Postgres and Valkey a run, a database a test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import structlog
from psycopg import sql

from models.migrate import migrate
from models.session import Database
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.sink import Sink, in_thread
from workers.embedded.valkey import EmbeddedValkey

TEMPLATE = f"dripfleet_template_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
ROOM = 4 << 30  # octets: what is written to the log, beside the databases of four workers
GIVEN = "DRIPFLEET_TEST_DATABASE_URL"

# As in the pool: with more, two models that are fitted side by side wait for each other's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Of a run over several processes the first has the server and tells the others where it is."""
    if hasattr(config, "workerinput"):
        return
    exits = ExitStack()
    config.add_cleanup(exits.close)
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        # Where nobody keeps bytecode, this run does: its many processes compile each module once.
        patch = exits.enter_context(pytest.MonkeyPatch.context())
        patch.delenv("PYTHONDONTWRITEBYTECODE")
        patch.setenv(
            "PYTHONPYCACHEPREFIX", exits.enter_context(tempfile.TemporaryDirectory(prefix="df"))
        )
    if getattr(config.option, "numprocesses", None) and not os.environ.get(GIVEN):
        patch = exits.enter_context(pytest.MonkeyPatch.context())
        patch.setenv(GIVEN, exits.enter_context(_server()))


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """A command that runs in this process configures the log; the next test starts without that."""
    was = structlog.get_config() if structlog.is_configured() else None
    yield
    if was is None:
        structlog.reset_defaults()
    else:
        structlog.configure(**was)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server for this run: ours, or the one that DRIPFLEET_TEST_DATABASE_URL names."""
    given = os.environ.get(GIVEN)
    if given:
        yield given
        return
    with _server() as url:
        yield url


def _in_memory() -> Path | None:
    """Where there is room for it: each test makes a database of some three hundred files."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < ROOM:
        return None
    return memory


@contextmanager
def _server() -> Iterator[str]:
    binaries = os.environ.get("DRIPFLEET_TEST_PG_BIN")
    with tempfile.TemporaryDirectory(prefix="df", dir=_in_memory()) as folder:
        server = EmbeddedPostgres.start(
            Path(folder) / "pg",
            bin_dir=Path(binaries) if binaries else None,
            # The data of a test is worth nothing after it; durability is tested by its own.
            settings={"fsync": "off", "full_page_writes": "off", "max_connections": "200"},
        )
        try:
            yield server.url
        finally:
            server.stop(immediate=True)


@pytest.fixture(scope="session")
def _template(postgres_url: str) -> str:
    if ready := os.environ.get("DRIPFLEET_TEST_TEMPLATE"):
        return ready
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(TEMPLATE)))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    database = Database(_named(postgres_url, TEMPLATE))
    migrate(database)
    database.close()
    return TEMPLATE


@pytest.fixture
def database_url(postgres_url: str, _template: str) -> Iterator[str]:
    """A fresh, migrated database."""
    with _fresh(postgres_url, _template) as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(postgres_url: str, _template: str) -> Iterator[str]:
    """A fresh, migrated database for all tests of a module."""
    with _fresh(postgres_url, _template) as url:
        yield url


@contextmanager
def _fresh(postgres_url: str, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            # Without fsync a copy of the files is the quickest: the other way writes all of it to the log.
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        # What `migrate` sets on the role belongs to the database it was run in.
        for setting in ("plan_cache_mode = force_generic_plan", "jit = off"):
            connection.execute(
                sql.SQL("ALTER ROLE CURRENT_USER IN DATABASE {} SET ").format(sql.Identifier(name))
                + sql.SQL(setting)
            )
    yield _named(postgres_url, name)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh, migrated database, reached through a pool."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture(scope="session")
def _valkey() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        server = EmbeddedValkey.start(Path(folder) / "vk")
        try:
            yield server.url
        finally:
            server.stop(immediate=True)


@pytest.fixture
def valkey_url(_valkey: str) -> str:
    """An empty Valkey."""
    import redis

    with redis.Redis.from_url(_valkey) as client:
        client.flushall()
    return _valkey


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    """A mail sink on a thread of this process."""
    with in_thread(tmp_path / "sink") as running:
        yield running


def _named(url: str, database: str) -> str:
    return url.rpartition("/")[0] + "/" + database
