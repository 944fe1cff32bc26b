"""kill -9 at the quantum pool: its run comes to its end, and no mail waits for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from tasks.moves.settings import DeliverySettings
from tasks.quantum import members, store
from tasks.quantum.request import Request
from tests.live import seeds
from tests.live.test_segment_runs import NOW, shop
from workers.embedded.home import Home
from workers.embedded.stack import Stack
from workers.supervisor import Fleet

pytest.importorskip("cirq", reason="needs the extra quantum")
MAILS = 400


@pytest.fixture
def stack(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    for name in [name for name in os.environ if name.startswith("DRIPFLEET_")]:
        monkeypatch.delenv(name)
    for name, value in DeliverySettings().shortened(40).environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DRIPFLEET_QUANTUM_LEASE", "5")
    with (
        Home(tmp_path_factory.mktemp("home")) as home,
        Stack(home, say=lambda text: None, loopback_only=True) as stack,
    ):
        for name, value in stack.environment().items():
            monkeypatch.setenv(name, value)
        yield stack


def wait(fleet: Fleet, condition: Callable[[], bool], seconds: float, what: str) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, f"not within {seconds:g} s: {what}"
        fleet.run(0.05)
    return time.monotonic() - began


@pytest.mark.timeout(300)
def test_a_killed_quantum_pool_finishes_its_run_and_slows_no_mail(stack: Stack) -> None:
    database = Database(stack.database_url)
    migrate(database)
    fleet = Fleet(stack, pools=("sequence", "send", "quantum"), flower=False)

    def one(sql: str) -> int:
        with database.transaction() as connection:
            return int(connection.execute(text(sql)).scalar_one())

    def mailed(key: str) -> float:
        """Enroll everybody, and the seconds until all have their mail."""
        source = seeds.ONE_MAIL.format(class_="marketing", template="test/mail")
        seeds.sequence(database, source.replace("one-mail", key))
        seeds.enroll(database, key, ids)
        sent = f"SELECT count(*) FROM message WHERE sequence_key = '{key}' AND state = 'sent'"
        return wait(fleet, lambda: one(sent) == MAILS, 90, f"{MAILS} mails of {key}")

    def kill() -> None:
        """The parent and its children, at once."""
        pid = fleet.pids().get("quantum")
        if pid is not None:
            parent = psutil.Process(pid)
            for process in [*parent.children(recursive=True), parent]:
                os.kill(process.pid, signal.SIGKILL)

    try:
        ids = shop(database, people=MAILS, buyers=300)
        fleet.start()
        fleet.wait_ready()
        mailed("warm-up")
        quiet = mailed("quiet")
        with database.transaction() as connection:
            wanted = Request("value", NOW, 3, 10, 2, shots=256)
            run, _ = store.ask(connection, wanted.checked())
        epoch = f"SELECT epoch FROM segment_run WHERE id = {run}"
        wait(fleet, lambda: one(epoch) >= 1, 60, "the run is taken")
        kill()
        busy = mailed("while-it-dies")
        kill()
        assert busy < 3 * quiet + 5, f"{busy:.1f} s beside {quiet:.1f} s"

        def ended() -> bool:
            with database.transaction() as connection:
                return store.found(connection, None, run).stage in ("done", "refused")

        wait(fleet, ended, 200, "the run ends")
        with database.transaction() as connection:
            row = store.found(connection, None, run)
            assert row.stage == "done", row.why
            assert sum(members.sizes(connection, run).values()) == MAILS
        assert one(epoch) > 8, "it was taken up again: four stages are four takes and four moves"
    finally:
        fleet.hurry()
        fleet.stop()
        database.close()
