"""The disk of Postgres is full: nothing is sent that cannot be recorded, and afterwards all of it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import errors
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.migrate import migrate
from models.session import Database
from tasks.moves import doubt, reap
from tasks.moves.settings import DeliverySettings
from tasks.upkeep import verify as audit
from tests.live import seeds
from tests.live.fleet import Fleet, eventually
from workers.cli.audit import SinkLedger
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.sink import Sink

SIZE = 192 << 20  # octets: what initdb makes, some WAL, and little more
MAILS = 300


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for Postgres's data."""
    folder = tmp_path / "disk"
    folder.mkdir(mode=0o700)
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "small", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    return ballast


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("short_durations")
def test_a_full_disk_of_postgres_loses_nothing_and_copies_nothing(
    small_disk: Path, sink: Sink, tmp_path: Path
) -> None:
    settings = {"max_wal_size": "64MB", "min_wal_size": "32MB", "shared_buffers": "16MB"}
    server = EmbeddedPostgres.start(small_disk / "data", settings=settings)
    database = Database(server.url)
    try:
        migrate(database)
        fleet = Fleet(database, sink, tmp_path)
        fleet.enrolled(MAILS)
        ballast = fill(small_disk)
        refused = 0

        def met_the_full_disk() -> bool:
            """Grow a table until Postgres says that there is no room; a claim then fails too."""
            nonlocal refused
            try:
                with database.transaction() as connection:
                    connection.execute(
                        text(
                            "CREATE TABLE IF NOT EXISTS filler (t text);"
                            "INSERT INTO filler SELECT repeat(md5(i::text), 60)"
                            " FROM generate_series(1, 20000) i"
                        )
                    )
            except DBAPIError as error:
                refused += 1
                # As a full disk, or with the server that it has ended.
                return isinstance(error.orig, errors.DiskFull) or not server.alive()
            return False

        eventually(met_the_full_disk, 60)
        with contextlib.suppress(DBAPIError):
            fleet.send()
        assert refused
        ballast.unlink()
        if not server.alive():
            server = EmbeddedPostgres.start(small_disk / "data", settings=settings)
        delivery = DeliverySettings()

        def settled() -> bool:
            try:
                fleet.scan()
                fleet.send()
                for step in (reap.reap_working, doubt.reap_armed):
                    with database.transaction() as connection:
                        step(connection, delivery)
                with database.transaction() as connection:
                    doubt.resolve(connection)
                return set(fleet.states()) <= {"sent", "sent_assumed"}
            except DBAPIError:
                return False

        with contextlib.suppress(DBAPIError), database.transaction() as connection:
            connection.execute(text("DROP TABLE IF EXISTS filler"))
            connection.execute(text("UPDATE stream SET doubt_hold = interval '1 s'"))
        eventually(settled, 90)
        fleet.service.loop.join(10)
        fleet.scan()
        report = audit.verify(
            database, delivery, audit.VerifySettings(), ledger=SinkLedger(sink.ledger)
        )
        assert report.clean, [finding for finding in report.findings if finding.count]
        assert sum(seeds.states(database).values()) == MAILS
        arrived = [line.message_id for line in sink.lines()]
        assert len(arrived) == len(set(arrived)), "a copy at the sink"
    finally:
        database.close()
        server.stop(immediate=True)
