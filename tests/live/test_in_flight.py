"""A statement still in flight: a move that waits for its row judges what it finds, not what it sought."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, text

from models.session import Database
from tasks.moves import doubt, reap, release, stop
from tasks.moves.claim import claim
from tasks.moves.settings import DeliverySettings
from tests.live import seeds
from tests.live.fleet import eventually

OWNER = "its owner"
SETTINGS = DeliverySettings()
ARMS = """
UPDATE message SET state = 'armed', armed_at = clock_timestamp(), attempts = attempts + 1,
    content_sha256 = sha256('a mail') WHERE id = :id"""
RECORDS = """
UPDATE message SET state = 'failed', owner = NULL, watch_at = NULL, reason = 'refused',
    terminal_at = clock_timestamp() WHERE id = :id"""
ANOTHER = "UPDATE message SET owner = 'another', epoch = epoch + 1 WHERE id = :id"
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

Move = Callable[[Connection, int], object]
MOVES: dict[str, Move] = {
    "release_owner": lambda c, _: reap.release_owner(c, OWNER, SETTINGS),
    "stop": lambda c, _: c.execute(stop.SUPPRESS_QUEUED, {"ids": _who(c), "reason": "stop"}),
    "fail": lambda c, id_: release.fail(c, [release.Failed(id_, 1, "render", "render")]),
    "refuse": lambda c, id_: release.refuse(c, [(id_, 1, "moved@away.test", False)], SETTINGS),
    "doubt": lambda c, id_: doubt.doubt(c, [doubt.Doubted(id_, 1, "closed")], OWNER, SETTINGS),
    "give_back": lambda c, id_: release.give_back(
        c, [release.Returned(id_, 1, "closed")], OWNER, SETTINGS
    ),
}


def _who(connection: Connection) -> list[int]:
    return list(connection.execute(text("SELECT id FROM subscriber")).scalars())


def claimed(database: Database) -> int:
    """A message that `OWNER` works on."""
    key = seeds.sequence(database, seeds.ONE_MAIL.format(class_="marketing", template="test/mail"))
    seeds.enroll(database, key, seeds.subscribers(database, 1))
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO message (effect_key, rfc_message_id, stream, sequence_key, step_id,"
                " entry_no, enrollment_id, subscriber_id, template, run_at)"
                " SELECT sha256('1'), '1', 'marketing', sequence_key, 'mail', 1, id,"
                " subscriber_id, 'test/mail', clock_timestamp() FROM enrollment"
            )
        )
        connection.execute(text("UPDATE enrollment SET due_at = NULL"))
        (row,) = claim(connection, stream="marketing", n=1, owner=OWNER, lease=120).rows
        return row.id


@pytest.mark.parametrize(
    ("move", "first", "then", "ends"),
    [
        ("release_owner", [], ARMS, "armed"),
        ("release_owner", [], ANOTHER, "working"),
        ("stop", [], ARMS, "armed"),
        ("fail", [], ARMS, "armed"),
        ("refuse", [], ARMS, "armed"),
        ("doubt", [ARMS], RECORDS, "failed"),
        # The answer to ARM's COMMIT was lost: what it did is undone, whichever came first.
        ("give_back", [], ARMS, "scheduled"),
        ("give_back", [ARMS], RECORDS, "failed"),
    ],
)
def test_a_move_that_waits_for_its_row_judges_what_it_then_finds(
    database: Database, move: str, first: list[str], then: str, ends: str
) -> None:
    id_ = claimed(database)
    for each in first:
        with database.transaction() as connection:
            connection.execute(text(each), {"id": id_})

    def act() -> None:
        with database.transaction() as connection:
            MOVES[move](connection, id_)

    def waits() -> bool:
        with database.transaction() as connection:
            return bool(connection.execute(text(WAITS)).scalar_one())

    mover = threading.Thread(target=act)
    with database.transaction() as connection:
        connection.execute(text(then), {"id": id_})
        mover.start()
        eventually(waits)
    mover.join(10)
    assert seeds.states(database) == {ends: 1}


def test_a_move_waits_for_no_enrollment_but_its_own(database: Database) -> None:
    id_ = claimed(database)
    seeds.enroll(database, "one-mail", seeds.subscribers(database, 1, domain="other.test"))
    others = text(
        "SELECT e.id FROM enrollment e WHERE NOT EXISTS"
        " (SELECT 1 FROM message m WHERE m.enrollment_id = e.id) FOR UPDATE"
    )
    with database.transaction() as holding, database.transaction() as connection:
        assert len(holding.execute(others).all()) == 1
        connection.execute(text("SET LOCAL lock_timeout = '2s'"))
        MOVES["give_back"](connection, id_)
    assert seeds.states(database) == {"scheduled": 1}


def test_what_upkeep_may_not_lock_in_order_it_leaves_for_the_next_time(database: Database) -> None:
    id_ = claimed(database)
    expired = text(
        "UPDATE message SET watch_at = clock_timestamp() - interval '1 h' WHERE id = :id"
    )
    with database.transaction() as connection:
        connection.execute(expired, {"id": id_})
    with database.transaction() as holding, database.transaction() as connection:
        holding.execute(text("SELECT id FROM enrollment FOR UPDATE"))
        assert reap.reap_working(connection, SETTINGS) == 0
    with database.transaction() as connection:
        assert reap.reap_working(connection, SETTINGS) == 1
