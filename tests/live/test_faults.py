"""Faults that must not come back: each test is named for what it forbids."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from models.session import Database
from tasks.errors import Misconfigured
from tasks.moves import doubt, pause, release
from tasks.moves.claim import Claimed, claim, keep_content
from tasks.moves.cycle import STATEMENTS, Answered, Cycled, Ready, cycle
from tasks.moves.pipeline import Pipeline
from tasks.moves.settings import DeliverySettings
from tasks.send.journal import Journal, Owner, owner
from tasks.send.replay import replay_all
from tests.live import seeds
from tests.live.fleet import Fleet, Make, eventually

pytestmark = pytest.mark.usefixtures("short_durations")

HASH = b"h" * 32
TRANSACTIONAL = seeds.ONE_MAIL.format(class_="transactional", template="test/mail")


class Hand:
    """One worker incarnation, move by move."""

    def __init__(self, database: Database, who: Owner, stream: str = "transactional") -> None:
        self.database = database
        self.owner = str(who)
        self.stream = stream
        self.settings = DeliverySettings()

    def take(self, n: int = 1) -> list[Claimed]:
        with self.database.transaction() as connection:
            return claim(connection, stream=self.stream, n=n, owner=self.owner, lease=60).rows

    def cycle(self, answered: Sequence[Answered], ready: Sequence[Ready]) -> Cycled:
        async def run() -> Cycled:
            pipeline = Pipeline(self.database.raw(), STATEMENTS)
            try:
                return await cycle(
                    pipeline, answered, ready, owner=self.owner, settings=self.settings
                )
            finally:
                pipeline.close()

        return asyncio.run(run())

    def arm(self, row: Claimed, sha256: bytes = HASH) -> Cycled:
        return self.cycle([], [Ready(row.id, row.epoch, row.subscriber_id, row.address, sha256)])

    def doubt(self, row: Claimed) -> None:
        with self.database.transaction() as connection:
            doubted = [doubt.Doubted(row.id, row.epoch, "closed")]
            doubt.doubt(connection, doubted, self.owner, self.settings)

    def resolved(self) -> bool:
        with self.database.transaction() as connection:
            return bool(doubt.resolve(connection))


def test_a_compacted_journal_still_knows_the_dots_that_are_in_doubt(
    fleet_with: Make, tmp_path: Path
) -> None:
    fleet = fleet_with("dot:accept_then_drop,limit=3")
    with fleet.database.transaction() as connection:
        connection.execute(text("UPDATE stream SET doubt_hold = interval '1 hour'"))
    fleet.enrolled(60)
    script = (
        "import os, sys; from types import SimpleNamespace; from pathlib import Path\n"
        "from models.session import Database; from tasks.send.journal import Journal\n"
        "from tests.live.fleet import Fleet\n"
        "Journal.compact.__kwdefaults__['limit'] = 300\n"
        "f = Fleet(Database(sys.argv[1]), SimpleNamespace(url=sys.argv[2]), Path(sys.argv[3]))\n"
        "f.send(); os.kill(os.getpid(), 9)\n"
    )
    folder = tmp_path / "other"
    killed = subprocess.run(
        [sys.executable, "-c", script, fleet.database.url, fleet.sink.url, str(folder)],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert killed.returncode == -9
    assert fleet.states() == {"sent": 57, "in_doubt": 3}
    assert replay_all(fleet.database, folder / "journals", DeliverySettings()) == 1
    assert fleet.states() == {"sent": 57, "in_doubt": 3}


def test_a_message_that_one_owner_tried_twice_does_not_stop_the_replay(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.enrolled(1, TRANSACTIONAL)
    who = owner()
    journal = Journal.create(tmp_path / "j", who)
    hand = Hand(fleet.database, who)
    (first,) = hand.take()
    hand.arm(first)
    journal.append_dots([(first.id, first.epoch)])
    hand.doubt(first)
    eventually(hand.resolved)
    (second,) = hand.take()
    hand.arm(second)
    journal.append_dots([(second.id, second.epoch)])
    journal.close(remove=False)
    assert replay_all(fleet.database, tmp_path / "j", DeliverySettings()) == 1
    assert fleet.states() == {"in_doubt": 1}


def test_a_journal_of_another_database_is_left_for_it(fleet: Fleet, tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "j", owner(), "somewhere/else")
    journal.close(remove=False)
    assert replay_all(fleet.database, tmp_path / "j", DeliverySettings()) == 0
    assert journal.path.exists()


def test_what_was_accepted_after_all_is_not_armed_again_whatever_came_of_the_next_try(
    fleet: Fleet,
) -> None:
    fleet.enrolled(1, TRANSACTIONAL)
    slow, quick = Hand(fleet.database, owner()), Hand(fleet.database, owner())
    (first,) = slow.take()
    armed = slow.arm(first)
    slow.doubt(first)
    eventually(slow.resolved)
    (second,) = quick.take()
    quick.arm(second)
    reply = Answered(
        first.id, first.epoch, first.enrollment_id, armed.armed_at, HASH, 250, None, "Ok"
    )
    slow.cycle([reply], [])
    with fleet.database.transaction() as connection:
        back = [release.Returned(second.id, second.epoch, "not_sent", 0.0, "arm")]
        release.give_back(connection, back, quick.owner, quick.settings)
    (third,) = quick.take()
    assert third.unfit
    assert quick.arm(third).armed == frozenset()
    with fleet.database.transaction() as connection:
        rows = [(third.id, third.epoch, third.address, False)]
        told = release.refuse(connection, rows, quick.settings)
    assert told == [(third.id, "sent", "evidence")]


def test_a_stream_whose_relay_is_not_known_here_is_refused_before_a_row_is_claimed(
    fleet: Fleet,
) -> None:
    fleet.enrolled(3)
    with fleet.database.transaction() as connection:
        connection.execute(text("UPDATE stream SET relay = 'mars'"))
    with pytest.raises(Misconfigured, match="DRIPFLEET_SMTP_URL_MARS"):
        fleet.send()
    assert fleet.states() == {"scheduled": 3}


def test_a_row_that_is_locked_from_outside_does_not_stop_the_other_settlements(
    fleet_with: Make,
) -> None:
    fleet = fleet_with("rcpt:450")
    fleet.enrolled(30)
    held = fleet.one("SELECT min(id) AS id FROM message").id
    # As a claimed row is locked by somebody's psql: after the claim, before the settlement.
    with psycopg.connect(fleet.database.url) as connection:
        ticket = None
        with fleet.database.transaction() as paused:
            pause.pause_stream(paused, "marketing", "test")
        connection.execute("SELECT 1 FROM message WHERE id = %s FOR UPDATE", (held,))
        with fleet.database.transaction() as resumed:
            assert pause.resume_stream(resumed, "marketing")
        ticket = fleet.service.store.answer("marketing", 500)
        assert ticket is not None
        assert ticket.wait(10)["given_back"] == 29
    eventually(lambda: fleet.send().get("given_back") == 1 or fleet.states() == {"scheduled": 30})


def test_a_definition_that_cannot_be_read_stops_its_own_sequence_alone(fleet: Fleet) -> None:
    ids = seeds.subscribers(fleet.database, 2)
    broken = seeds.sequence(fleet.database, seeds.TWO_MAILS)
    sound = seeds.sequence(fleet.database, TRANSACTIONAL)
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE sequence_version SET definition = '{}' WHERE sequence_key = :key"),
            {"key": broken},
        )
    seeds.enroll(fleet.database, broken, ids)
    seeds.enroll(fleet.database, sound, ids)
    fleet.scan()
    assert fleet.states() == {"scheduled": 2}
    row = fleet.one("SELECT count(*) AS n FROM decision WHERE kind = 'put_off'")
    assert row.n == 2


def test_of_rows_with_many_crashes_a_process_holds_ten(fleet: Fleet) -> None:
    fleet.enrolled(15, TRANSACTIONAL)
    with fleet.database.transaction() as connection:
        connection.execute(text("UPDATE message SET crashes = 3"))
    hand, other = Hand(fleet.database, owner()), Hand(fleet.database, owner())
    assert [len(hand.take(15)), len(hand.take(15)), len(other.take(15))] == [10, 0, 5]


def test_a_zombies_bytes_are_neither_kept_nor_sent(fleet: Fleet) -> None:
    fleet.enrolled(1, TRANSACTIONAL)
    zombie, worker = Hand(fleet.database, owner()), Hand(fleet.database, owner())
    (old,) = zombie.take()
    with fleet.database.transaction() as connection:
        back = [release.Returned(old.id, old.epoch, "lease_expired")]
        release.give_back(connection, back, zombie.owner, zombie.settings)
    (new,) = worker.take()
    with fleet.database.transaction() as connection:
        keep_content(connection, [(new.id, new.epoch, b"n" * 32, b"new")])
        keep_content(connection, [(old.id, old.epoch, b"o" * 32, b"old")])
    worker.arm(new, b"n" * 32)
    worker.doubt(new)
    eventually(worker.resolved)
    (again,) = worker.take()
    assert (again.body, again.content_sha256) == (b"new", b"n" * 32)


def test_a_hard_bounce_does_not_suppress_the_address_that_replaced_the_dead_one(
    fleet: Fleet,
) -> None:
    (subscriber,) = fleet.enrolled(1, TRANSACTIONAL)
    (row,) = Hand(fleet.database, owner()).take()
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE subscriber SET address = 'new@example.com' WHERE id = :id"),
            {"id": subscriber},
        )
    with fleet.database.transaction() as connection:
        release.suppress_recipient(connection, row.id, row.address, "hard_bounce")
    assert fleet.one("SELECT count(*) AS n FROM suppression").n == 0
