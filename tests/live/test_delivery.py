"""From a due row to the sink's ledger and back, on a real Postgres and a real SMTP conversation."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.session import Database
from models.states import LEGAL_MOVES
from tasks.moves import doubt, reap
from tasks.moves.claim import claim
from tasks.moves.cycle import STATEMENTS, Answered, Cycled, Ready, cycle
from tasks.moves.pipeline import Pipeline
from tasks.moves.settings import DeliverySettings
from tasks.moves.stop import stop_subscriber
from tasks.send.render import Bundle
from tests.live import seeds
from tests.live.fleet import Fleet, Make, eventually
from workers.embedded.sink import in_thread

pytestmark = pytest.mark.usefixtures("short_durations")


def test_every_step_becomes_one_mail_and_the_sequence_ends(fleet: Fleet) -> None:
    fleet.enrolled(120, seeds.TWO_MAILS)

    def finished() -> bool:
        fleet.scan()
        fleet.send()
        row = fleet.one("SELECT count(*) FILTER (WHERE active) AS n FROM enrollment")
        return bool(row.n == 0)

    eventually(finished)
    assert fleet.states() == {"sent": 240}
    ledger = fleet.sink.lines()
    assert len(ledger) == len({line.message_id for line in ledger}) == 240
    row = fleet.one("SELECT sum(n) AS n FROM counter WHERE outcome = 'sent'")
    assert row.n == 240
    ends = fleet.one("SELECT min(end_reason) AS a, max(end_reason) AS b FROM enrollment")
    assert (ends.a, ends.b) == ("completed", "completed")


def test_a_stopped_subscriber_gets_nothing_also_when_the_message_was_queued(fleet: Fleet) -> None:
    stopped, _ = fleet.enrolled(2)
    with fleet.database.transaction() as connection:
        assert stop_subscriber(connection, stopped, "unsubscribe") == (1, 1)
    assert fleet.send() == {"claimed": 1, "sent": 1}
    assert fleet.states() == {"sent": 1, "suppressed": 1}
    assert len(fleet.sink.lines()) == 1


def test_a_stop_that_goes_around_our_code_is_seen_at_the_claim(fleet: Fleet) -> None:
    stopped, _ = fleet.enrolled(2)
    with fleet.database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO suppression (address_hmac, scope, reason)"
                " SELECT address_hmac, 'all', 'complaint' FROM subscriber WHERE id = :id"
            ),
            {"id": stopped},
        )
    fleet.send()
    row = fleet.one("SELECT state, reason FROM message WHERE subscriber_id = :id", id=stopped)
    assert (row.state, row.reason) == ("suppressed", "complaint")
    fleet.scan()
    row = fleet.one("SELECT end_reason FROM enrollment WHERE subscriber_id = :id", id=stopped)
    assert row.end_reason == "complaint"


def test_who_did_not_opt_in_to_the_topic_gets_no_marketing(fleet: Fleet) -> None:
    out, silent, willing, late = seeds.subscribers(fleet.database, 4)
    key = seeds.sequence(
        fleet.database, seeds.ONE_MAIL.format(class_="marketing", template="test/mail")
    )
    seeds.enroll(fleet.database, key, [out, silent, willing, late])
    with fleet.database.transaction() as connection:
        for sql, who in (
            ("UPDATE consent SET opted_in = false WHERE subscriber_id = :id", out),
            ("DELETE FROM consent WHERE subscriber_id = :id", silent),
        ):
            connection.execute(text(sql), {"id": who})
    fleet.scan()
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE consent SET opted_in = false WHERE subscriber_id = :id"), {"id": late}
        )
    fleet.send()
    with fleet.database.transaction() as connection:
        told = connection.execute(
            text("SELECT subscriber_id, state::text, reason FROM message ORDER BY subscriber_id")
        ).all()
    assert [tuple(row) for row in told] == [
        (out, "suppressed", "opted_out"),
        (silent, "suppressed", "not_opted_in"),
        (willing, "sent", "accepted"),
        (late, "suppressed", "opted_out"),
    ]


def test_a_stop_while_the_mail_stands_before_its_dot_is_obeyed(fleet_with: Make) -> None:
    fleet = fleet_with("data:stall,seconds=1.5,limit=1")
    (subscriber,) = fleet.enrolled(1)
    ticket = fleet.service.store.answer("marketing", 1)
    assert ticket is not None
    with fleet.database.transaction() as connection:
        stop_subscriber(connection, subscriber, "unsubscribe")
    ticket.wait(15)
    assert fleet.states() == {"suppressed": 1}
    assert fleet.sink.lines() == []


def test_a_subscriber_whose_lock_is_held_does_not_hold_up_the_others(fleet: Fleet) -> None:
    held, *_ = fleet.enrolled(40)
    with psycopg.connect(fleet.database.url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (held,))
        ticket = fleet.service.store.answer("marketing", 500)
        assert ticket is not None
        eventually(lambda: fleet.states().get("sent") == 39)
    ticket.wait(15)
    eventually(lambda: fleet.send().get("claimed") is None and fleet.states() == {"sent": 40})
    assert len(fleet.sink.lines()) == 40


def test_a_dead_address_is_suppressed_and_leaves_its_sequence(fleet_with: Make) -> None:
    fleet = fleet_with()
    first, _ = fleet.enrolled(2)
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE subscriber SET address = 'bounce+550@example.com' WHERE id = :id"),
            {"id": first},
        )
    fleet.send()
    fleet.scan()
    assert fleet.states() == {"sent": 1, "failed": 1}
    row = fleet.one(
        "SELECT e.end_reason, p.reason, m.last_code, m.last_stage, m.attempts FROM subscriber s"
        " JOIN enrollment e ON e.subscriber_id = s.id JOIN message m ON m.subscriber_id = s.id"
        " JOIN suppression p USING (address_hmac) WHERE s.id = :id",
        id=first,
    )
    assert tuple(row) == ("hard_bounce", "hard_bounce", 550, "rcpt", 0)
    told = fleet.one("SELECT name, properties ->> 'class', properties ->> 'source' FROM event")
    assert tuple(told) == ("email.bounced", "hard", "relay")


def test_a_4yz_after_the_dot_comes_back_later_and_the_enrollment_waits(fleet_with: Make) -> None:
    fleet = fleet_with("dot:451,limit=1")
    fleet.enrolled(1)
    assert fleet.send() == {"claimed": 1, "deferred": 1}
    row = fleet.one(
        "SELECT m.state, m.attempts, m.run_at > clock_timestamp() AS later, e.due_at, a.outcome,"
        " a.code FROM message m JOIN enrollment e ON e.id = m.enrollment_id"
        " JOIN attempt a ON a.message_id = m.id"
    )
    assert tuple(row) == ("scheduled", 1, True, None, "deferred", 451)
    eventually(lambda: bool(fleet.send()))
    assert fleet.states() == {"sent": 1}
    assert fleet.one("SELECT count(*) AS n FROM attempt").n == 2


def test_a_reply_that_never_comes_is_a_doubt_and_settled_by_policy(fleet_with: Make) -> None:
    fleet = fleet_with("dot:accept_then_drop,limit=1")
    fleet.enrolled(1)
    assert fleet.send() == {"claimed": 1, "in_doubt": 1}
    row = fleet.one("SELECT state, maybe_delivered, attempts FROM message")
    assert tuple(row) == ("in_doubt", True, 1)

    def resolved() -> bool:
        with fleet.database.transaction() as connection:
            return doubt.resolve(connection) == {"sent_assumed": 1}

    eventually(resolved)
    fleet.scan()
    assert fleet.one("SELECT end_reason FROM enrollment").end_reason == "completed"
    assert len(fleet.sink.lines()) == 1


def test_a_transactional_doubt_is_sent_again_once_with_the_same_bytes(fleet_with: Make) -> None:
    fleet = fleet_with("dot:accept_then_drop,limit=2")
    fleet.enrolled(1, seeds.ONE_MAIL.format(class_="transactional", template="test/mail"))
    outcomes: list[str] = []

    def settled() -> bool:
        fleet.send("transactional")
        with fleet.database.transaction() as connection:
            outcomes.extend(doubt.resolve(connection))
        return len(outcomes) == 2

    eventually(settled, 30)
    assert outcomes == ["scheduled", "sent_assumed"]
    first, second = fleet.sink.lines()
    assert (first.sha256, first.message_id) == (second.sha256, second.message_id)
    assert fleet.one("SELECT count(DISTINCT content_sha256) AS n FROM attempt").n == 1


def test_a_5yz_at_data_ends_the_step_and_the_sequence_goes_on(fleet_with: Make) -> None:
    fleet = fleet_with("data:554,limit=1")
    fleet.enrolled(1)
    assert fleet.send() == {"claimed": 1, "failed": 1}
    fleet.scan()
    assert fleet.one("SELECT end_reason FROM enrollment").end_reason == "completed"


def test_a_relay_that_is_not_there_costs_no_attempt(database: Database, tmp_path: Path) -> None:
    with in_thread(tmp_path / "gone") as gone:
        fleet = Fleet(database, gone, tmp_path)
    try:
        fleet.enrolled(3)
        fleet.send()
        row = fleet.one("SELECT min(attempts) AS a, min(reason) AS r, min(state) AS s FROM message")
        assert tuple(row) == (0, "relay_unreachable", "scheduled")
    finally:
        fleet.service.loop.join(5)


def test_a_template_that_raises_fails_its_own_row_alone(fleet: Fleet) -> None:
    broken = Bundle(
        "test/mail",
        {
            "subject.txt": "Hello",
            "body.txt": "{% if subscriber.first_name == 'X' %}{{ nope }}{% endif %}.",
        },
    )
    ids = fleet.enrolled(3, bundle=broken)
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE subscriber SET first_name = 'X' WHERE id = :id"), {"id": ids[0]}
        )
    assert fleet.send() == {"claimed": 3, "failed": 1, "sent": 2}
    row = fleet.one("SELECT reason FROM message WHERE state = 'failed'")
    assert "body.txt" in row.reason and "nope" in row.reason


def test_a_row_that_took_its_worker_down_is_rendered_in_a_child(fleet: Fleet) -> None:
    bomb = Bundle(
        "test/mail",
        {
            "subject.txt": "Hello",
            "body.txt": "{% for a in range(9999) %}{% for b in range(9999) %}"
            "{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}.",
        },
    )
    fleet.enrolled(1, bundle=bomb)
    with fleet.database.transaction() as connection:
        connection.execute(text("UPDATE message SET crashes = 3"))
    fleet.send()
    row = fleet.one("SELECT state, crashes, attempts FROM message")
    assert (row.state, row.attempts) == ("failed", 0)
    assert fleet.sink.lines() == []


def test_a_lost_cycle_connection_loses_and_copies_nothing(fleet: Fleet) -> None:
    fleet.enrolled(600)
    ticket = fleet.service.store.answer("marketing", 500)
    assert ticket is not None
    killed = 0
    deadline = time.monotonic() + 10
    while fleet.states().get("sent", 0) < 500 and time.monotonic() < deadline:
        with fleet.database.transaction() as connection:
            killed += connection.execute(
                text(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND query LIKE '%dripfleet.got%'"
                    " AND pid <> pg_backend_pid()"
                )
            ).scalar_one()
        if killed > 3:
            break
    ticket.wait(15)
    eventually(lambda: bool(fleet.send()) or fleet.states() == {"sent": 600})
    eventually(lambda: fleet.states() == {"sent": 600})
    assert killed, "no connection was ended: this test showed nothing"
    ledger = fleet.sink.lines()
    assert len(ledger) == len({line.message_id for line in ledger}) == 600


def test_draining_gives_back_what_is_not_armed(fleet_with: Make) -> None:
    fleet = fleet_with("data:stall,seconds=0.3,p=0.5")
    fleet.enrolled(60)
    ticket = fleet.service.store.answer("marketing", 500)
    assert ticket is not None
    assert fleet.service.loop.join(20)
    told = ticket.wait(1)
    assert "open" not in told and told["claimed"] == 60
    assert set(fleet.states()) <= {"sent", "scheduled"}
    assert len(fleet.sink.lines()) == fleet.states().get("sent", 0)
    assert list((fleet.settings.journal_dir).iterdir()) == []


def test_the_reaper_gives_back_a_lease_that_ran_out_and_the_zombie_cannot_arm(
    fleet: Fleet,
) -> None:
    fleet.enrolled(1)
    settings = DeliverySettings()
    with fleet.database.transaction() as connection:
        (row,) = claim(
            connection, stream="marketing", n=5, owner="000000000000/dead", lease=0.01
        ).rows

    def reaped() -> bool:
        with fleet.database.transaction() as connection:
            return reap.reap_working(connection, settings) == 1

    eventually(reaped)
    after = fleet.one("SELECT state, crashes, epoch FROM message")
    assert (after.state, after.crashes, after.epoch) == ("scheduled", 1, row.epoch)
    assert fleet.send() == {"claimed": 1, "sent": 1}
    assert fleet.one("SELECT epoch FROM message").epoch == row.epoch + 1


def test_no_hand_can_make_an_illegal_move(fleet: Fleet) -> None:
    fleet.enrolled(1)
    with pytest.raises(DBAPIError, match="not a legal move"):
        with fleet.database.transaction() as connection:
            connection.execute(
                text("UPDATE message SET state = 'failed', run_at = NULL,"
                     " terminal_at = clock_timestamp()")
            )  # fmt: skip


def test_the_table_of_legal_moves_is_the_one_in_the_code(database: Database) -> None:
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT from_state::text, to_state::text FROM legal_move"))
        stored = {(a, b) for a, b in rows}
    assert stored == {(a, b) for a, ends in LEGAL_MOVES.items() for b in ends}


def test_a_mail_that_waits_longer_than_its_lease_is_still_ours(fleet_with: Make) -> None:
    fleet = fleet_with("data:stall,seconds=3,limit=1")
    fleet.enrolled(1)
    ticket = fleet.service.store.answer("marketing", 1)
    assert ticket is not None
    first = fleet.one("SELECT watch_at FROM message").watch_at
    eventually(lambda: bool(fleet.one("SELECT watch_at > :t AS later FROM message", t=first).later))
    with fleet.database.transaction() as connection:
        assert reap.reap_working(connection, DeliverySettings()) == 0
    assert ticket.wait(15) == {"claimed": 1, "sent": 1}
    assert fleet.one("SELECT epoch FROM message").epoch == 1


def test_a_reply_that_comes_after_the_resend_was_queued_ends_it_without_a_copy(
    fleet: Fleet,
) -> None:
    fleet.enrolled(1, seeds.ONE_MAIL.format(class_="transactional", template="test/mail"))
    settings = DeliverySettings()
    with fleet.database.transaction() as connection:
        (row,) = claim(
            connection, stream="transactional", n=1, owner="000000000000/frozen", lease=60
        ).rows

    async def cycled(answered: list[Answered], ready: list[Ready]) -> Cycled:
        pipeline = Pipeline(fleet.database.raw(), STATEMENTS)
        try:
            return await cycle(
                pipeline, answered, ready, owner="000000000000/frozen", settings=settings
            )
        finally:
            pipeline.close()

    ready = Ready(row.id, row.epoch, row.subscriber_id, row.address, b"h" * 32)
    done = asyncio.run(cycled([], [ready]))
    with fleet.database.transaction() as connection:
        doubt.doubt(
            connection,
            [doubt.Doubted(row.id, row.epoch, "frozen")],
            "000000000000/frozen",
            settings,
        )

    def resent() -> bool:
        with fleet.database.transaction() as connection:
            return doubt.resolve(connection) == {"scheduled": 1}

    with fleet.database.transaction() as connection:
        connection.execute(text("UPDATE stream SET doubt_policy = 'hold'"))
        assert doubt.resolve(connection) == {}
        connection.execute(text("UPDATE stream SET doubt_policy = 'resend'"))
    eventually(resent)
    late = Answered(
        row.id, row.epoch, row.enrollment_id, done.armed_at, b"h" * 32, 250, "2.0.0", "Ok"
    )
    asyncio.run(cycled([late], []))
    assert fleet.states() == {"sent": 1}
    assert fleet.send("transactional") == {}
    assert fleet.one("SELECT outcome FROM attempt").outcome == "accepted"
