"""A database restored from an older dump: noticed, nothing sent, held in doubt, settled by evidence."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.errors import Permanent
from tasks.moves import doubt, quarantine
from tasks.moves.settings import DeliverySettings
from tasks.send.seen import OlderThanSent, Seen
from tasks.upkeep import verify as audit
from tests.live import seeds
from tests.live.fleet import Fleet, eventually
from workers.cli.audit import SinkLedger
from workers.embedded.sink import Sink

pytestmark = pytest.mark.usefixtures("short_durations")

# What a dump brings back: the rows as they were then, and nothing that came later.
TABLES = ("attempt", "content", "counter", "decision", "message", "enrollment", "consent", "tick")


class Dump:
    """The rows of a database at a moment, put back in place of what has come since."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.transaction() as connection:
            for table in TABLES:
                connection.execute(text(f"CREATE TABLE kept_{table} AS TABLE {table}"))

    def restore(self) -> None:
        with self.database.transaction() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for table in TABLES:
                connection.execute(text(f"DELETE FROM {table}"))
                connection.execute(text(f"INSERT INTO {table} SELECT * FROM kept_{table}"))


def now(database: Database) -> dt.datetime:
    with database.transaction() as connection:
        at: dt.datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return at


@pytest.fixture
def restored(database: Database, sink: Sink, tmp_path: Path) -> tuple[Fleet, dt.datetime]:
    """Three mails went out before the dump, twelve after it; then the dump was restored."""
    fleet = Fleet(database, sink, tmp_path)
    fleet.enrolled(3)
    fleet.send()
    with database.transaction() as connection:
        connection.execute(text("UPDATE stream SET doubt_hold = interval '0.2 s'"))
    scheduled = seeds.subscribers(database, 6, domain="scheduled.example.com")
    key = seeds.sequence(
        database,
        seeds.ONE_MAIL.format(class_="marketing", template="test/mail").replace(
            "one-mail", "later"
        ),
    )
    seeds.enroll(database, key, scheduled)
    fleet.scan()
    due = seeds.subscribers(database, 6, domain="due.example.com")
    seeds.enroll(database, key, due)
    dump, at = Dump(database), now(database)
    # Another worker: the file of the latest permission is written once a second.
    fleet.service.loop.join(10)
    fleet = Fleet(database, sink, tmp_path)
    fleet.scan()
    fleet.send()
    assert fleet.states() == {"sent": 15}
    fleet.service.loop.join(10)
    dump.restore()
    assert fleet.states() == {"sent": 3, "scheduled": 6}
    return fleet, at


def copies(sink: Sink) -> int:
    return sum(n - 1 for n in Counter(line.message_id for line in sink.lines()).values())


def test_a_send_worker_refuses_a_database_that_lacks_what_it_has_sent(
    restored: tuple[Fleet, dt.datetime], database: Database, sink: Sink, tmp_path: Path
) -> None:
    with pytest.raises(OlderThanSent, match=r"older than .*`dripfleet quarantine --since 20"):
        Fleet(database, sink, tmp_path)
    assert len(sink.lines()) == 15


def test_a_database_that_knows_the_try_is_not_older_whatever_its_clock_said(
    fleet: Fleet, database: Database, tmp_path: Path
) -> None:
    """Rows of one ARM are armed some moments apart where somebody else changed one meanwhile."""
    fleet.enrolled(1)
    message = fleet.one("SELECT id FROM message")[0]
    seen = Seen.of(tmp_path, "fleet")
    seen.note(message, 1, "2999-01-01 00:00:00+00")
    with pytest.raises(OlderThanSent):
        seen.require_known_to(database)
    fleet.send()
    seen.require_known_to(database)
    Seen.of(tmp_path, "fleet").note(message, 2, "2999-01-01 00:00:00+00")
    with pytest.raises(OlderThanSent):
        seen.require_known_to(database)


def test_a_quarantine_and_the_ledger_settle_everything_without_a_copy(
    restored: tuple[Fleet, dt.datetime], database: Database, sink: Sink, tmp_path: Path
) -> None:
    _, since = restored
    held = quarantine.begin(database, since, "restored")
    assert held.counts == {"working": 0, "armed": 0, "in_doubt": 0, "scheduled": 6}
    fleet = Fleet(database, sink, tmp_path)
    fleet.scan()  # plans again what the dump does not know to be planned
    assert fleet.send() == {}
    assert fleet.states() == {"sent": 3, "in_doubt": 12}
    with database.transaction() as connection:
        quarantine.add_evidence(connection, [line.message_id for line in sink.lines()])
    assert quarantine.settle_evident(database) == 12
    assert fleet.states() == {"sent": 15}
    assert quarantine.lift(database, DeliverySettings()) == 0
    fleet.scan()
    fleet.send()
    fleet.service.loop.join(10)
    assert copies(sink) == 0
    report = audit.verify(
        database, DeliverySettings(), audit.VerifySettings(), ledger=SinkLedger(sink.ledger)
    )
    assert report.clean, [finding for finding in report.findings if finding.count]


@pytest.mark.parametrize(
    ("policy", "ends"),
    [("assume_sent", {"sent": 3, "sent_assumed": 12}), ("resend", {"sent": 15})],
)
def test_a_lifted_quarantine_leaves_the_rest_to_the_policy_and_the_audit_explains_the_copies(
    restored: tuple[Fleet, dt.datetime],
    database: Database,
    sink: Sink,
    tmp_path: Path,
    policy: str,
    ends: dict[str, int],
) -> None:
    _, since = restored
    with database.transaction() as connection:
        connection.execute(text("UPDATE stream SET doubt_policy = :p"), {"p": policy})
    quarantine.begin(database, since, "restored")
    fleet = Fleet(database, sink, tmp_path)
    fleet.scan()
    assert quarantine.lift(database, DeliverySettings()) == 12

    def settled() -> bool:
        with database.transaction() as connection:
            doubt.resolve(connection)
        fleet.send()
        return fleet.states() == ends

    eventually(settled)
    fleet.service.loop.join(10)
    assert copies(sink) == (12 if policy == "resend" else 0)
    report = audit.verify(
        database, DeliverySettings(), audit.VerifySettings(), ledger=SinkLedger(sink.ledger)
    )
    assert report.clean, [finding for finding in report.findings if finding.count]


def test_what_comes_due_after_a_quarantine_began_is_sent(
    restored: tuple[Fleet, dt.datetime], database: Database, sink: Sink, tmp_path: Path
) -> None:
    _, since = restored
    quarantine.begin(database, since, "restored")
    fleet = Fleet(database, sink, tmp_path)
    fleet.scan()
    fresh = seeds.subscribers(database, 2, domain="fresh.example.com")
    seeds.enroll(database, "later", fresh)
    fleet.scan()
    assert fleet.send()["sent"] == 2
    fleet.service.loop.join(10)
    with database.transaction() as connection:
        held = connection.execute(
            text("SELECT subscriber_id FROM decision WHERE kind = 'quarantined'")
        ).scalars()
        assert not set(held) & set(fresh), "the log says it of those only who are held"


def test_once_it_is_lifted_the_time_before_it_means_nothing(
    fleet: Fleet, database: Database
) -> None:
    fleet.enrolled(1)
    quarantine.begin(database, now(database), "restored")
    late = seeds.subscribers(database, 2, domain="late.example.com")
    seeds.enroll(database, "one-mail", late)
    with database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE enrollment SET due_at = clock_timestamp() - interval '1 minute'"
                " WHERE subscriber_id = ANY(:late)"
            ),
            {"late": late},
        )
    quarantine.lift(database, DeliverySettings())
    fleet.scan()
    assert fleet.send()["sent"] == 2


def test_what_is_known_to_have_arrived_is_not_sent_again_after_it_was_lifted_either(
    restored: tuple[Fleet, dt.datetime], database: Database, sink: Sink, tmp_path: Path
) -> None:
    _, since = restored
    quarantine.begin(database, since, "restored")
    fleet = Fleet(database, sink, tmp_path)
    known = [line.message_id for line in sink.lines()]
    with database.transaction() as connection:
        # Of the six that the dump does not know to be planned, the far end names all but one.
        unplanned = sorted(
            line.message_id for line in sink.lines() if line.rcpt.endswith("@due.example.com")
        )
        quarantine.add_evidence(connection, [each for each in known if each != unplanned[0]])
    quarantine.settle_evident(database)
    quarantine.lift(database, DeliverySettings())
    fleet.scan()
    fleet.send()
    fleet.service.loop.join(10)
    assert quarantine.settle_evident(database) == 5
    assert copies(sink) == 1, "the one of which nobody had a word"
    assert fleet.states() == {"sent": 15}


def test_a_quarantine_takes_back_what_the_dump_caught_in_hand(
    fleet: Fleet, database: Database
) -> None:
    fleet.enrolled(3, seeds.ONE_MAIL.format(class_="transactional", template="test/mail"))
    with database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE message SET state = 'working', epoch = 1, owner = 'dead', run_at = NULL,"
                " watch_at = clock_timestamp() + interval '1 hour' WHERE id % 3 <> 0"
            )
        )
        connection.execute(
            text(
                "UPDATE message SET state = 'armed', attempts = 1, armed_at = clock_timestamp(),"
                " content_sha256 = '\\x01' WHERE id % 3 = 1"
            )
        )
    held = quarantine.begin(database, now(database), "restored")
    assert held.counts == {"working": 1, "armed": 1, "in_doubt": 0, "scheduled": 1}
    assert fleet.states() == {"in_doubt": 3}
    assert quarantine.begin(database, now(database), "again").quarantine == held.quarantine


def test_what_is_parked_is_held_and_what_is_due_later_is_not(
    fleet: Fleet, database: Database
) -> None:
    fleet.enrolled(3)
    with database.transaction() as connection:
        ids = connection.execute(text("SELECT id FROM message ORDER BY id")).scalars().all()
        connection.execute(
            text(
                "UPDATE message SET run_at = 'infinity', parked_from = clock_timestamp() WHERE id = :id"
            ),
            {"id": ids[0]},
        )
        connection.execute(
            text("UPDATE message SET run_at = clock_timestamp() + interval '1 day' WHERE id = :id"),
            {"id": ids[1]},
        )
    held = quarantine.begin(database, now(database), "restored")
    assert held.counts["scheduled"] == 2
    with database.transaction() as connection:
        found = connection.execute(
            text("SELECT state::text, parked_from, watch_at::text FROM message ORDER BY id")
        ).all()
    assert [row.state for row in found] == ["in_doubt", "scheduled", "in_doubt"]
    assert found[0].parked_from is None and found[0].watch_at == "infinity"


def test_lifted_it_leaves_an_operators_doubts_to_the_operator(
    fleet: Fleet, database: Database
) -> None:
    ids = fleet.enrolled(1)
    bill = seeds.ONE_MAIL.format(class_="transactional", template="test/mail")
    seeds.enroll(database, seeds.sequence(database, bill.replace("one-mail", "bill")), ids)
    with database.transaction() as connection:
        connection.execute(
            text("UPDATE stream SET doubt_policy = 'hold' WHERE key = 'transactional'")
        )
    fleet.scan()
    quarantine.begin(database, now(database), "restored")
    assert quarantine.lift(database, DeliverySettings()) == 1
    with database.transaction() as connection:
        watched = connection.execute(
            text("SELECT stream, watch_at = 'infinity' FROM message WHERE state = 'in_doubt'")
        )
        assert {row[0]: row[1] for row in watched} == {"marketing": False, "transactional": True}


def test_one_that_was_lifted_stays_as_it_was_and_is_not_found_again(database: Database) -> None:
    kept = text("SELECT lifted_at FROM quarantine WHERE id = :id")
    first = quarantine.begin(database, now(database), "first").quarantine
    quarantine.lift(database, DeliverySettings())
    with database.transaction() as connection:
        assert quarantine.standing(connection) is None
        lifted = connection.execute(kept, {"id": first.id}).scalar_one()
    second = quarantine.begin(database, now(database), "second").quarantine
    with database.transaction() as connection:
        assert quarantine.standing(connection) == second != first
    quarantine.lift(database, DeliverySettings())
    with database.transaction() as connection:
        assert connection.execute(kept, {"id": first.id}).scalar_one() == lifted


def test_a_quarantine_of_the_future_is_refused(database: Database) -> None:
    with pytest.raises(Permanent, match="in the future"):
        quarantine.begin(database, now(database) + dt.timedelta(hours=1), "typo")
