"""On the running fleet: an event lets in, ends and converts within seconds, also over a killed worker."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from models.migrate import migrate
from models.session import Database
from schedules.goal import Holdout
from tasks.audience.one_event import record_event
from tasks.moves.settings import DeliverySettings
from tasks.sequence.report import report
from tasks.upkeep.verify import VerifySettings, verify
from tests.live.door import Door
from workers.embedded.ledger import LEDGER, read_ledger
from workers.embedded.stack import Stack
from workers.supervisor import Fleet

ONE_SCAN = 5.0  # seconds, at rest: the promise
PEOPLE = 40
HOLDOUT = Holdout(Decimal(50), "half")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    with tempfile.TemporaryDirectory(prefix="df") as folder:
        with Stack(environ={**plain, "DRIPFLEET_HOME": folder}) as stack:
            database = Database(stack.database_url)
            migrate(database)
            database.close()
            fleet = Fleet(stack, pools=("sequence", "send"), flower=False)
            try:
                fleet.start()
                fleet.wait_ready(120)
                yield fleet
            finally:
                fleet.hurry()
                fleet.stop()


@pytest.fixture(scope="module")
def door(fleet: Fleet) -> Iterator[Door]:
    database = Database(fleet.stack.database_url)
    door = Door(database, PEOPLE)
    door.sequence(
        "trigger: {event: paused}, dedupe_key: event.pause_id",
        "exit: [{event: resumed, reason: converted}]\n"
        "goal: {event: resumed, window: 7d, value: event.mrr}\n"
        "holdout: {percent: 50, salt: half}",
    )
    yield door
    database.close()


def tell(door: Door, who: int, name: str, **properties: Any) -> float:
    """As `events add` does; returns when that was."""
    with door.database.transaction() as connection:
        record_event(connection, who, name, properties=properties)
    return time.monotonic()


def within(fleet: Fleet, met: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        fleet.poll()
        time.sleep(0.02)


def arrived(fleet: Fleet) -> Counter[str]:
    path = fleet.stack.home.mail / LEDGER
    return Counter(line.rcpt for line in read_ledger(path)) if path.exists() else Counter()


def address(door: Door, who: int) -> str:
    return str(door.run("SELECT address FROM subscriber WHERE id = :id", id=who)[0].address)


def test_an_event_is_a_mail_and_another_one_the_end_within_a_scan(
    fleet: Fleet, door: Door, record_property: Callable[[str, object], None]
) -> None:
    mailed = next(who for who in door.people if not HOLDOUT.holds(who))
    to = address(door, mailed)
    since = tell(door, mailed, "paused", pause_id=f"first-{mailed}")
    within(fleet, lambda: arrived(fleet)[to] == 1, ONE_SCAN, "the mail of whoever an event let in")
    took = time.monotonic() - since

    def waits() -> bool:
        return bool(door.run("SELECT FROM enrollment WHERE step_id = 'wait' AND due_at > now()"))

    within(fleet, waits, ONE_SCAN, "the wait behind it")
    since = tell(door, mailed, "resumed", mrr=30)
    ended = "SELECT FROM enrollment WHERE end_reason = 'converted'"
    within(fleet, lambda: bool(door.run(ended)), ONE_SCAN, "the end of whoever converted")
    record_property("event to mail, s", round(took, 2))
    record_property("event to exit, s", round(time.monotonic() - since, 2))
    rows = door.run("SELECT value FROM conversion")
    assert [row.value for row in rows] == [30]


def test_each_comes_in_once_over_a_killed_worker_and_both_arms_are_counted(
    fleet: Fleet, door: Door
) -> None:
    # Each event twice, as a producer that retries says it; the first person has been in before.
    for n, who in enumerate(door.people):
        for _ in range(2):
            tell(door, who, "paused", pause_id=f"first-{who}")
        if n == PEOPLE // 2:
            os.kill(fleet.pids()["sequence"], signal.SIGKILL)
    held = {who for who in door.people if HOLDOUT.holds(who)}
    mailed = {address(door, who) for who in door.people if who not in held}

    def all_are_in() -> bool:
        done = "SELECT FROM enrollment WHERE step_id = 'wait' OR NOT active"
        return len(door.run(done)) == PEOPLE and not door.run("SELECT FROM entry_request")

    within(fleet, all_are_in, 60, "everybody is in, and waits behind the first mail")
    assert set(arrived(fleet)) == mailed and set(arrived(fleet).values()) == {1}
    assert len(door.entries()) == PEOPLE
    assert door.run("SELECT FROM event_news") == []
    with door.database.transaction() as connection:
        duplicates = connection.execute(
            text("SELECT sum(n) FROM entry_refusal WHERE reason = 'duplicate'")
        ).scalar_one()
        one, other = report(connection, "door").arms
    assert duplicates == PEOPLE + 1
    assert (one.people, one.sent, one.held, one.converted) == (
        PEOPLE - len(held),
        len(mailed),
        0,
        1,
    )
    assert (other.people, other.sent, other.held) == (len(held), 0, len(held))
    audit = verify(door.database, DeliverySettings(), VerifySettings())
    assert audit.clean, [finding for finding in audit.findings if finding.count]
