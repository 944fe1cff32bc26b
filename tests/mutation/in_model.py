"""`python -m tests.mutation.in_model [FILE…]`: the guards of the moves against the model alone.

One process and one database for all mutants, so that a mutant costs a second or two: a module is
run again with its changed source, the model's own tests are called, the source is put back. What
survives here is for `python -m tests.mutation`, whose tests see two sessions and a real relay.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection

from models.migrate import migrate
from models.session import Database
from tasks.moves import cycle
from tests.model import conftest, test_late_words
from tests.model.inside import Direct, equip
from tests.model.test_machine import Fleet, storm
from tests.model.world import ROWS, World
from tests.mutation.mutants import Mutant, of_sql
from workers.embedded.postgres import EmbeddedPostgres

FILES = ("cycle", "claim", "release", "reap", "doubt")
SEEDS = range(14)


def main(files: list[str]) -> int:
    """Print each survivor, and the score; exit 1 if there was one."""
    with tempfile.TemporaryDirectory(prefix="dfm") as folder:
        server = EmbeddedPostgres.start(Path(folder) / "pg", settings={"fsync": "off"})
        try:
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute("CREATE DATABASE template_of_model")
            base = server.url.rpartition("/")[0]
            database = Database(f"{base}/template_of_model")
            migrate(database)
            database.close()
            standing = conftest.standing.__wrapped__  # type: ignore[attr-defined]
            for database in standing(server.url, "template_of_model"):
                with database.engine.connect() as session, pytest.MonkeyPatch.context() as patch:
                    equip(session, ROWS)
                    patch.setattr("tasks.send.replay.Pipeline", Direct)
                    return _all(session, files or list(FILES))
        finally:
            server.stop(immediate=True)
    return 1


def _all(session: Connection, files: list[str]) -> int:
    assert (fault := _fault(session)) is None, f"the model fails without a mutant: {fault}"
    tried = lived = 0
    for name in files:
        path = f"tasks/moves/{name}.py"
        source = Path(path).read_text()
        module = importlib.import_module(f"tasks.moves.{name}")
        began, before = time.monotonic(), lived
        mutants = list(of_sql(path, source))
        for mutant in mutants:
            with _changed(session, module, mutant, source):
                if _fault(session) is None:
                    lived += 1
                    print(f"survived  {mutant}", flush=True)
        tried += len(mutants)
        here, spent = lived - before, time.monotonic() - began
        print(f"{name}: {len(mutants) - here} of {len(mutants)}, {spent:.0f} s", flush=True)
    print(f"score: {tried - lived} of {tried}, {(tried - lived) / tried:.1%}")
    return 1 if lived else 0


@contextmanager
def _changed(session: Connection, module: Any, mutant: Mutant, source: str) -> Iterator[None]:
    """The module's functions read what its globals are now."""
    _load(session, module, mutant.source)
    try:
        yield
    finally:
        _load(session, module, source)


def _load(session: Connection, module: Any, source: str) -> None:
    exec(compile(source, str(module.__file__), "exec"), module.__dict__)
    if module is cycle:
        raw: Any = session.connection.driver_connection
        for name, sql in module.STATEMENTS.items():
            raw.pgconn.exec_(f"DEALLOCATE {name}".encode())
            raw.pgconn.prepare(name.encode(), sql.encode())


def _fault(session: Connection) -> BaseException | None:
    """What the model says: None, if it notices nothing."""
    try:
        for words in _late_words():
            undo = session.begin()
            try:
                world = World(session)
                world.plan()
                world.run(test_late_words.LONELY)
                world.run(test_late_words.OVER)
                words(world=world)
            finally:
                undo.rollback()
        Fleet.session = session
        for seed in SEEDS:
            fleet = Fleet()
            try:
                for _ in storm(fleet, Random(seed), 60):
                    pass
                fleet.world.settle_down()
            finally:
                fleet.undo.rollback()
    except BaseException as fault:
        if isinstance(fault, KeyboardInterrupt):
            raise
        return fault
    return None


def _late_words() -> Iterator[Callable[..., None]]:
    """Each case of `test_late_words`, with its parameters."""
    for name, test in list(vars(test_late_words).items()):
        if not name.startswith("test_"):
            continue
        marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        if not marks:
            yield test
            continue
        names, values = marks[0].args
        names = [names] if isinstance(names, str) else list(names)
        for value in values:
            given = dict(zip(names, value if len(names) > 1 else [value], strict=True))
            yield partial(test, **given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
