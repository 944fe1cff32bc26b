"""A row that takes its process down ends up alone; no crash condemns the rows around it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.moves import reap, release
from tasks.moves.claim import Claimed, claim
from tasks.moves.operate import failed_of, last_id, retry
from tasks.moves.settings import DeliverySettings
from tasks.upkeep.verify import VerifySettings, verify
from tests.live.fleet import Fleet

SETTINGS = DeliverySettings()


class Process:
    """A send process as the claim sees it."""

    def __init__(self, database: Database, n: int) -> None:
        self.database = database
        self.owner = f"000000000000/{n:016x}"

    def take(self, n: int = 100) -> list[Claimed]:
        with self.database.transaction() as connection:
            return claim(
                connection, stream="marketing", n=n, owner=self.owner, lease=60,
                alone=SETTINGS.alone,
            ).rows  # fmt: skip

    def done(self, rows: list[Claimed]) -> None:
        """They come to an end; which one does not matter here."""
        with self.database.transaction() as connection:
            release.fail(
                connection, [release.Failed(row.id, row.epoch, "refused", "rcpt") for row in rows]
            )

    def dies(self) -> None:
        with self.database.transaction() as connection:
            reap.release_owner(connection, self.owner, SETTINGS)


def crashes(fleet: Fleet, n: int, *ids: int) -> None:
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE message SET crashes = :n WHERE id = ANY(:ids)"), {"n": n, "ids": list(ids)}
        )


def messages(fleet: Fleet) -> list[Any]:
    with fleet.database.transaction() as connection:
        query = "SELECT id, state::text, reason, crashes FROM message ORDER BY id"
        return list(connection.execute(text(query)).all())


@pytest.fixture
def queue(fleet: Fleet) -> tuple[Fleet, list[int]]:
    fleet.enrolled(12)
    return fleet, [row.id for row in messages(fleet)]


def test_a_crash_never_condemns_the_batch_around_it(queue: tuple[Fleet, list[int]]) -> None:
    fleet, (guilty, *innocent) = queue
    company: list[int] = []
    most: Counter[int] = Counter()
    for n in range(60):
        process = Process(fleet.database, n)
        rows = process.take()
        if not rows:
            break
        if guilty in {row.id for row in rows}:
            company.append(len(rows))
            process.dies()
        else:
            # Somebody pulls the plug of the innocent too, now and then.
            process.dies() if n % 3 == 0 else process.done(rows)
        for row in messages(fleet):
            most[row.id] = max(most[row.id], row.crashes)
    ended = {row.id: (row.state, row.reason) for row in messages(fleet)}
    assert ended[guilty] == ("failed", "poison")
    assert {ended[row] for row in innocent} == {("failed", "refused")}
    # What condemned it happened three times while nothing else was in that process's hands.
    assert company[-3:] == [1, 1, 1] and len(company) == SETTINGS.max_crashes
    assert max(most[row] for row in innocent) < SETTINGS.max_crashes
    report = verify(fleet.database, SETTINGS, VerifySettings())
    assert report.clean


def test_who_may_be_guilty_is_taken_by_a_process_that_holds_nothing_and_takes_no_more(
    queue: tuple[Fleet, list[int]],
) -> None:
    fleet, (first, second, *rest) = queue
    crashes(fleet, SETTINGS.alone, first, second)
    idle, busy = Process(fleet.database, 1), Process(fleet.database, 2)
    assert [row.id for row in idle.take()] == [first]
    assert idle.take() == []
    crashes(fleet, 0, second)
    held = busy.take(3)
    assert sorted(row.id for row in held) == [second, *rest[:2]]
    crashes(fleet, SETTINGS.alone, rest[-1])
    # A process with other rows in hand goes on with those that are above suspicion.
    assert rest[-1] not in {row.id for row in busy.take()}
    busy.dies()
    assert [row.id for row in Process(fleet.database, 3).take()] == [rest[-1]]


def test_two_crashes_keep_fifty_together_three_keep_ten_and_four_two(fleet: Fleet) -> None:
    fleet.enrolled(60)
    ids = [row.id for row in messages(fleet)]
    crashes(fleet, 2, *ids)
    process = Process(fleet.database, 1)
    assert len(process.take()) == 50
    process.dies()
    crashes(fleet, 3, *ids)
    other = Process(fleet.database, 2)
    assert [len(other.take()), len(other.take())] == [10, 0]
    other.dies()
    third = Process(fleet.database, 3)
    assert [len(third.take()), len(third.take())] == [2, 0]
    crashes(fleet, 0, *ids[10:])
    # Beside suspects others are taken.
    assert len(third.take(20)) == 20


def test_what_a_dead_relay_gives_back_is_no_crash(queue: tuple[Fleet, list[int]]) -> None:
    fleet, _ = queue
    process = Process(fleet.database, 1)
    for _ in range(SETTINGS.max_crashes + 1):
        back = [
            release.Returned(row.id, row.epoch, "relay_unreachable", 0.0, "connect")
            for row in process.take()
        ]
        assert len(back) == 12
        with fleet.database.transaction() as connection:
            release.give_back(connection, back, process.owner, SETTINGS)
    assert {(row.state, row.crashes) for row in messages(fleet)} == {("scheduled", 0)}
    assert fleet.one("SELECT max(attempts) FROM message")[0] == 0


def test_a_render_that_takes_down_its_child_for_the_last_time_is_poison(
    queue: tuple[Fleet, list[int]],
) -> None:
    fleet, (guilty, *_) = queue
    crashes(fleet, SETTINGS.max_crashes - 2, guilty)
    for state in ("scheduled", "failed"):
        process = Process(fleet.database, 1)
        (row,) = process.take()
        back = [release.Returned(row.id, row.epoch, "render_exploded", crashed=True)]
        with fleet.database.transaction() as connection:
            release.give_back(connection, back, process.owner, SETTINGS)
        assert messages(fleet)[0].state == state
    assert messages(fleet)[0].reason == "poison"
    with fleet.database.transaction() as connection:
        found = failed_of(
            connection, "one-mail", after=0, last=last_id(connection), reason="poison"
        )
        assert found == [guilty]
        assert retry(connection, [guilty], SETTINGS).done == [guilty]
    # Tried again, it is alone at once.
    assert messages(fleet)[0].crashes == SETTINGS.alone
    assert [row.id for row in Process(fleet.database, 2).take()] == [guilty]


def test_a_permission_for_the_dot_clears_it_of_suspicion(queue: tuple[Fleet, list[int]]) -> None:
    fleet, ids = queue
    crashes(fleet, 2, *ids)
    fleet.send()
    assert {row.crashes for row in messages(fleet)} == {0}
    assert fleet.states() == {"sent": 12}
