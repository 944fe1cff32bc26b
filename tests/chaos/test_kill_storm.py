"""A send worker killed again and again, on a relay that hangs up after the dot, with a tiny journal.

On a transactional stream, whose doubts are sent a second time: every copy at the sink must be one
that a doubt explains, and nothing may be lost. The seed is printed; a fault that never fired fails.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.moves import doubt, reap
from tasks.moves.settings import DeliverySettings
from tasks.upkeep import verify as audit
from tests.live import seeds
from tests.live.fleet import Fleet
from workers.cli.audit import SinkLedger
from workers.embedded.faults import Faults
from workers.embedded.sink import in_thread

MAILS = 3000
KILLS = 6
STREAM = "transactional"

WORKER = """
import sys
from pathlib import Path
from types import SimpleNamespace

from models.session import Database
from tasks.send.journal import Journal
from tests.live.fleet import Fleet

Journal.compact.__kwdefaults__["limit"] = 2000
fleet = Fleet(Database(sys.argv[1]), SimpleNamespace(url=sys.argv[2]), Path(sys.argv[3]))
print("ready", flush=True)
while True:
    fleet.send("transactional")
"""


def counted(database: Database) -> dict[str, int]:
    return seeds.states(database)


def test_a_storm_of_kills_loses_nothing_and_explains_every_copy(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DeliverySettings().shortened(100)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201  (shown when it fails)
    rng = random.Random(seed)
    faults = Faults.parse(["dot:accept_then_drop,p=0.01", "dot:drop,p=0.01"], seed=seed)
    with in_thread(tmp_path / "mail", faults=faults, latency=0.005) as sink:
        folder = tmp_path / "worker"
        with database.transaction() as connection:
            connection.execute(text("UPDATE stream SET doubt_hold = interval '7 s'"))
        ids = seeds.subscribers(database, MAILS)
        source = seeds.ONE_MAIL.format(class_=STREAM, template="test/mail")
        seeds.enroll(database, seeds.sequence(database, source), ids)
        planner = Fleet(database, sink, tmp_path / "planner")
        planner.scan()
        planner.service.loop.join(5)

        for _ in range(KILLS):
            worker = subprocess.Popen(
                [sys.executable, "-c", WORKER, database.url, sink.url, str(folder)],
                cwd=Path(__file__).parents[2],
                stdout=subprocess.PIPE,
            )
            assert worker.stdout is not None
            assert b"ready\n" in iter(worker.stdout.readline, b"")  # log lines come before it
            try:
                worker.wait(rng.uniform(0.1, 0.4))
            except subprocess.TimeoutExpired:
                pass
            assert worker.poll() is None, "it ended by itself: this kill would show nothing"
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            worker.stdout.close()
        assert counted(database).get("sent", 0) < MAILS, "everything was sent before the last kill"

        fleet = Fleet(database, sink, folder)
        deadline = time.monotonic() + 60
        live = ("scheduled", "working", "armed", "in_doubt")
        while any(counted(database).get(state) for state in live):
            assert time.monotonic() < deadline, counted(database)
            fleet.send(STREAM)
            with database.transaction() as connection:
                doubt.resolve(connection)
            with database.transaction() as connection:
                reap.reap_working(connection, settings)
            with database.transaction() as connection:
                doubt.reap_armed(connection, settings)
        fleet.service.loop.join(10)
        fleet.scan()
        report = audit.verify(
            database, settings, audit.VerifySettings(), ledger=SinkLedger(sink.ledger)
        )
    assert report.clean, [finding for finding in report.findings if finding.count]
    assert all(faults.fired.values()), f"a fault never fired: {faults.fired}"
    assert set(report.states) <= {"sent", "sent_assumed"}
    assert report.sink is not None and report.sink.copies_in_doubt > 0
