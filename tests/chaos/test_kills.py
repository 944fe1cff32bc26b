"""kill -9 in the middle of the demo: it converges, with no copy at the sink and nothing lost.

The real fleet on embedded servers, with the durations of delivery forty times shorter and in their
real proportion; judged by the sink's own ledger and by the audit.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from models.migrate import migrate
from models.session import Database
from tasks.moves.settings import DeliverySettings
from tasks.upkeep import verify as audit
from tasks.upkeep.overview import overview
from workers.cli.audit import SinkLedger
from workers.demo import story
from workers.embedded.home import Home
from workers.embedded.ledger import read_ledger
from workers.embedded.stack import Stack
from workers.supervisor import Fleet

CUSTOMERS = 2000
# A working lease of 3 s: on a busy machine a shorter one ends before the row's turn has come.
SHORTER = 40


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def stack(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> Iterator[Stack]:
    for name in [name for name in os.environ if name.startswith("DRIPFLEET_")]:
        monkeypatch.delenv(name)
    for name, value in DeliverySettings().shortened(SHORTER).environment().items():
        monkeypatch.setenv(name, value)
    # A sink that takes its time, so that a kill finds mails at every stage.
    monkeypatch.setenv("DRIPFLEET_CONNECTIONS", "8")
    with Home(tmp_path_factory.mktemp("home")) as home:
        home.sink(latency=0.02)
        with Stack(home, say=said.append, loopback_only=True) as stack:
            for name, value in stack.environment().items():
                monkeypatch.setenv(name, value)
            yield stack


def wait(fleet: Fleet, condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        fleet.run(0.1)


@pytest.mark.timeout(420)
def test_kills_in_the_middle_of_the_demo_lose_and_copy_nothing(
    stack: Stack, said: list[str]
) -> None:
    database = Database(stack.database_url)
    migrate(database)
    fleet = Fleet(stack, flower=False, say=said.append)

    def reached(mark: int) -> bool:
        with database.transaction() as connection:
            return overview(connection).sent >= mark

    def settled() -> bool:
        now, done = story.look(database)
        return done and now.in_doubt == 0

    def back(name: str, pid: int) -> bool:
        return fleet.pids().get(name) not in (None, pid)

    killed: list[str] = []
    try:
        fleet.start()
        imported = story.bring_in(database, CUSTOMERS, said.append)
        story.publish_both(database, said.append)
        fleet.wait_ready()
        tallies = story.enroll(database, CUSTOMERS, imported.shift)
        assert tallies[story.SHORT].enrolled == CUSTOMERS

        for name, mark in (("send", 200), ("beat", 900), ("send", 1500)):
            wait(fleet, partial(reached, mark), 60, f"{mark} mails")
            pid = fleet.pids()[name]
            os.kill(pid, signal.SIGKILL)
            killed.append(name)
            wait(fleet, partial(back, name, pid), 30, f"{name} is back")
        os.kill(stack.home.valkey().pid, signal.SIGKILL)
        killed.append("valkey")
        wait(fleet, lambda: stack.home.running("valkey") is not None, 30, "Valkey is back")

        # Doubts are settled by policy within the shortened hold.
        wait(
            fleet,
            settled,
            180,
            "everything is settled",
        )
    finally:
        fleet.stop()
        database.engine.dispose()
    assert killed == ["send", "beat", "send", "valkey"]

    ledger = stack.home.mail / "ledger.jsonl"
    report = audit.verify(
        database, DeliverySettings(), audit.VerifySettings(), ledger=SinkLedger(ledger)
    )
    database.close()
    assert report.clean, [finding for finding in report.findings if finding.count]
    arrived = [line.message_id for line in read_ledger(ledger)]
    assert len(arrived) == len(set(arrived)), "a copy at the sink"
    planned = 2 * CUSTOMERS + tallies[story.LONG].enrolled
    assert sum(report.states.values()) == planned
    assert set(report.states) <= {"sent", "sent_assumed"}
    # What was assumed sent may be missing there, and nothing else.
    assert planned - len(arrived) <= report.states.get("sent_assumed", 0)
    leaks = re.compile(rb"[\w.+-]+@example\.com|\bk1\.[\w-]{11}\.|Subject:|postgresql://\w+:(?!\*)")
    for log in stack.home.logs.iterdir():
        found = leaks.search(log.read_bytes())
        assert found is None, f"{log.name} holds {found and found.group()!r}"
    assert report.sink is not None and report.sink.known == len(arrived)
