"""`python -m tests.mutation.in_model [FILE…]`: the guards of the moves against the model alone.

`--of=PRINTED` tries the survivors that an earlier run printed into a file.

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
from tasks.moves.pipeline import StatementFailed
from tests.model import conftest, test_late_words, test_looks, test_permission
from tests.model.inside import Direct, equip
from tests.model.test_machine import Fleet, storm
from tests.model.world import ROWS, World
from tests.mutation.equivalent import reason_of
from tests.mutation.mutants import Mutant, of_sql, unsaid
from workers.embedded.postgres import EmbeddedPostgres

FILES = ("cycle", "claim", "release", "reap", "doubt", "statement")
# Who writes their statements with the words of another module: they are run again with it.
READERS = {
    "doubt": ("quarantine",),
    "statement": (
        "cycle",
        "doubt",
        "release",
        "reap",
        "stop",
        "pause",
        "settle",
        "operate",
        "evidence",
    ),
}
SEEDS = range(2)


def main(arguments: list[str]) -> int:
    """Print each survivor, and the score; exit 1 if there was one."""
    files = [each for each in arguments if not each.startswith("--of=")]
    only = {
        line.removeprefix("survived").strip()
        for each in arguments
        if each.startswith("--of=")
        for line in Path(each.removeprefix("--of=")).read_text().splitlines()
        if line.startswith("survived")
    }
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
                    return _all(session, files or list(FILES), only)
        finally:
            server.stop(immediate=True)
    return 1


def _all(session: Connection, files: list[str], only: set[str]) -> int:
    assert (fault := _fault(session)) is None, f"the model fails without a mutant: {fault}"
    tried = lived = 0
    for name in files:
        path = f"tasks/moves/{name}.py"
        source = Path(path).read_text()
        began, before, here = time.monotonic(), lived, 0
        for mutant in of_sql(path, source):
            if (only and str(mutant) not in only) or reason_of(mutant):
                continue
            fault = _tried(session, name, mutant)
            if unsaid(repr(fault)):
                print(f"no SQL    {mutant}", flush=True)
                continue
            here += 1
            if fault is None:
                lived += 1
                print(f"survived  {mutant}", flush=True)
        tried += here
        spent = time.monotonic() - began
        print(f"{name}: {here - lived + before} of {here}, {spent:.0f} s", flush=True)
    if tried:
        print(f"score: {tried - lived} of {tried}, {(tried - lived) / tried:.1%}")
    return 1 if lived else 0


def _tried(session: Connection, name: str, mutant: Mutant) -> BaseException | None:
    """What the model says to a module with changed source, which is put back."""
    module = importlib.import_module(f"tasks.moves.{name}")
    try:
        _load(session, module, mutant.source)
        for each in READERS.get(name, ()):
            reader = importlib.import_module(f"tasks.moves.{each}")
            _load(session, reader, Path(str(reader.__file__)).read_text())
        return _fault(session)
    except StatementFailed as fault:
        return fault
    finally:
        for each in (name, *READERS.get(name, ())):
            reader = importlib.import_module(f"tasks.moves.{each}")
            _load(session, reader, Path(str(reader.__file__)).read_text())


def _load(session: Connection, module: Any, source: str) -> None:
    """Run a module again: its functions read what its globals are now."""
    exec(compile(source, str(module.__file__), "exec"), module.__dict__)
    if module is cycle:
        raw: Any = session.connection.driver_connection
        for name, sql in module.STATEMENTS.items():
            raw.pgconn.exec_(f"DEALLOCATE {name}".encode())
            Direct._check(raw.pgconn.prepare(name.encode(), sql.encode()))


def _fault(session: Connection) -> BaseException | None:
    """What the model says: None, if it notices nothing."""
    try:
        undo = session.begin()
        try:
            world = World(session)
            test_late_words.begin(world)
            saved = world.save()
            for case in CASES:
                step = session.begin_nested()
                try:
                    case(world=world)
                except BaseException:
                    # What noticed this one may notice the next.
                    CASES.insert(0, CASES.pop(CASES.index(case)))
                    raise
                finally:
                    step.rollback()
                    world.restore(saved)
                    world.edition = 0
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


def _cases() -> Iterator[Callable[..., None]]:
    """Each case of one mail, with its parameters."""
    for name, test in (vars(test_late_words) | vars(test_permission) | vars(test_looks)).items():
        if not name.startswith("test_"):
            continue
        marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        cases: list[dict[str, Any]] = [{}]
        for names, values in (mark.args for mark in marks):
            keys = [names] if isinstance(names, str) else list(names)
            cases = [
                case | dict(zip(keys, value if len(keys) > 1 else [value], strict=True))
                for case in cases
                for value in values
            ]
        yield from (partial(test, **case) for case in cases)


CASES = list(_cases())

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
