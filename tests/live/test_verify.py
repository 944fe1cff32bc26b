"""The audit finds what is broken, by its own name, and nothing where work is merely in flight."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from sqlalchemy import Connection, text
from typer.testing import CliRunner

from models.session import Database
from tasks.errors import Permanent
from tasks.moves.settings import DeliverySettings
from tasks.upkeep.far_end import Ledger
from tasks.upkeep.verify import Report, VerifySettings, verify
from workers.cli.audit import SinkLedger, register, summary

MESSAGE = text("""
INSERT INTO message (effect_key, rfc_message_id, stream, sequence_key, sequence_version, step_id,
    entry_no, enrollment_id, subscriber_id, template, content_sha256, state, run_at, watch_at, owner,
    terminal_at, epoch, takes, armed_at, attempts, maybe_delivered, created_at)
SELECT sha256(CAST(p.mail AS bytea)), '<' || p.mail || '@mail.test>', p.stream, e.sequence_key,
    e.sequence_version, p.step, e.entry_no, e.id, p.who, 'test/mail', sha256(CAST(p.mail AS bytea)),
    p.state,
    CASE WHEN p.state = 'scheduled' THEN p.ahead END,
    CASE WHEN p.state IN ('working', 'armed', 'in_doubt') THEN p.ahead END,
    CASE WHEN p.state IN ('working', 'armed') THEN 'worker' END,
    CASE WHEN p.state NOT IN ('scheduled', 'working', 'armed', 'in_doubt') THEN p.ended END,
    :epoch, :epoch, now() - make_interval(mins => CAST(:armed AS integer)), :attempts, :doubted,
    now() - interval '50 min'
FROM (SELECT CAST(:who AS bigint) AS who, CAST(:mail AS text) AS mail,
          CAST(:stream AS text) AS stream, CAST(:step AS text) AS step,
          CAST(:state AS message_state) AS state, now() + make_interval(mins => :ahead) AS ahead,
          now() - make_interval(mins => :ended) AS ended) p
LEFT JOIN enrollment e ON e.subscriber_id = p.who RETURNING id
""")
ATTEMPT = text("""
INSERT INTO attempt (message_id, epoch, owner, armed_at, content_sha256, outcome, stage, ended_at)
VALUES (:id, :epoch, 'worker', now() - make_interval(mins => :armed),
    sha256(CAST(CAST(:mail AS text) AS bytea)), CAST(:outcome AS attempt_outcome), 'dot',
    now() - make_interval(mins => :ended))
""")
RECOUNT = """
DELETE FROM counter;
INSERT INTO counter
SELECT coalesce(sequence_key, ''), coalesce(step_id, ''), id & 3, state, count(*) FROM message
WHERE state NOT IN ('scheduled', 'working', 'armed', 'in_doubt') GROUP BY 1, 2, 3, 4
"""
# Who is who, by subscriber id.
WAITS, RESENT, DOUBTED, ARMED, WORKING, DUE, FAILED, PARKED, API, LEFT, DEFERRED, TWO, EVIDENCE = (
    range(1, 14)
)


def mail(
    connection: Connection,
    who: int,
    state: str,
    *tries: tuple[str, int, int],
    stream: str = "marketing",
    step: str = "first",
    ahead: int = 5,
) -> None:
    """A message of a subscriber; each try is (outcome, armed, ended), both in minutes ago."""
    name = f"{who}.{step}"
    armed = state == "armed"
    values: dict[str, Any] = {"who": who, "mail": name, "state": state, "stream": stream}
    values |= {"step": step, "ahead": ahead, "attempts": len(tries) + armed}
    values |= {"epoch": len(tries) + (state in ("working", "armed")) or 1}
    values |= {"armed": 1 if armed else tries[-1][1] if tries else None}
    values |= {"ended": tries[-1][2] if tries else 30}
    values |= {"doubted": who in (RESENT, DOUBTED, LEFT, EVIDENCE)}
    message_id = connection.execute(MESSAGE, values).scalar_one()
    for epoch, (outcome, begun, ended) in enumerate(tries, 1):
        row = {"id": message_id, "epoch": epoch, "mail": name, "outcome": outcome}
        connection.execute(ATTEMPT, row | {"armed": begun, "ended": ended})


class Within(Database):
    """A database as one open transaction sees it: what a test breaks is mended by its rollback."""

    def __init__(self, url: str, connection: Connection) -> None:
        super().__init__(url)
        self.connection = connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        yield self.connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        yield self.connection


@pytest.fixture(scope="module")
def standing(postgres_url: str, _template: str) -> Iterator[Database]:
    """A database in which everything that is lawful stands, much of it in flight."""
    name = "test_verify"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {name} TEMPLATE {_template}")
        database = Database(postgres_url.rpartition("/")[0] + "/" + name)
        populate(database)
        yield database
        database.close()
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def fleet(standing: Database) -> Iterator[Database]:
    """The same, to be broken at will."""
    with standing.engine.connect() as connection:
        inside = Within(standing.url, connection)
        yield inside
        inside.close()
        connection.rollback()


def populate(database: Database) -> None:
    with database.transaction() as connection:
        script(
            connection,
            """
            ALTER TABLE message DISABLE TRIGGER USER;
            ALTER TABLE subscriber DISABLE TRIGGER USER;
            ALTER TABLE suppression DISABLE TRIGGER USER;
            INSERT INTO subscriber (address, address_hmac)
            SELECT 's' || i || '@example.com', sha256(CAST('s' || i AS bytea))
            FROM generate_series(1, 13) i;
            INSERT INTO sequence (key, title, stream, version) VALUES
                ('letters', 'Letters', 'marketing', 1), ('resting', 'Resting', 'marketing', 1);
            UPDATE sequence SET paused_at = now(), pause_reason = 'test' WHERE key = 'resting';
            INSERT INTO sequence_version (sequence_key, version, definition, source, sha256)
            SELECT key, 1, '{}', '', '' FROM sequence;
            INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id)
            SELECT CASE id WHEN 8 THEN 'resting' ELSE 'letters' END, 1, id FROM subscriber
            WHERE id <> 9;
            UPDATE enrollment SET due_at = now() + interval '1 hour' WHERE subscriber_id = 1;
            UPDATE enrollment SET active = false, ended_at = now() - interval '20 min',
                end_reason = 'completed' WHERE subscriber_id IN (2, 7, 10, 11, 12, 13);
            UPDATE subscriber SET stopped_at = now() - interval '25 min', stopped_reason = 'test'
            WHERE id = 10;
            INSERT INTO topic (key, title) VALUES ('news', 'News'), ('old', 'Old');
            UPDATE sequence SET topic = 'news';
            ALTER TABLE consent DISABLE TRIGGER USER;
            INSERT INTO consent (subscriber_id, topic, opted_in, source, at)
            SELECT id, 'news', id <> 10, 'test', now() - interval '25 min' FROM subscriber;
            INSERT INTO consent (subscriber_id, topic, opted_in, source, at)
            SELECT id, 'old', false, 'test', now() - interval '1 day' FROM subscriber;
            INSERT INTO suppression (address_hmac, scope, reason, at)
            SELECT address_hmac, 'transactional', 'test', now() - interval '1 day'
            FROM subscriber WHERE id = 1""",
        )
        accepted, doubted = ("accepted", 31, 30), ("in_doubt", 45, 44)
        mail(connection, WAITS, "sent", accepted)
        mail(connection, RESENT, "sent", doubted, accepted, stream="transactional")
        mail(connection, DOUBTED, "in_doubt", ("in_doubt", 5, 4))
        mail(connection, ARMED, "armed")
        mail(connection, WORKING, "working")
        mail(connection, DUE, "scheduled", ahead=-10)
        mail(connection, FAILED, "failed", ("deferred", 45, 44), ("refused", 31, 30))
        mail(connection, PARKED, "scheduled")
        mail(connection, API, "sent", accepted, stream="transactional")
        mail(connection, LEFT, "sent_assumed", ("in_doubt", 31, 30))
        mail(connection, DEFERRED, "scheduled", ("deferred", 31, 30), ahead=150)
        mail(connection, TWO, "sent", ("accepted", 45, 44))
        mail(connection, TWO, "sent", accepted, step="second")
        # Evidence for the first came while the resent one was in the air.
        late = ("accepted", 45, 30)
        mail(connection, EVIDENCE, "sent", late, accepted, stream="transactional")
        script(
            connection,
            """
            UPDATE message SET parked_from = now() - interval '1 day', run_at = 'infinity'
            WHERE subscriber_id = 8;
            UPDATE message SET created_at = terminal_at WHERE step_id = 'second';
            UPDATE message SET created_at = now() - interval '43 min' WHERE step_id = 'second'""",
        )
        script(connection, RECOUNT)


def script(connection: Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.exec_driver_sql(statement)


def audit(database: Database, ledger: Ledger | None = None) -> Report:
    return verify(database, DeliverySettings(), VerifySettings(), ledger=ledger)


def broken(report: Report) -> dict[str, list[int | None]]:
    """Name → subscriber ids of what was found."""
    return {f.name: [row.subscriber_id for row in f.rows] for f in report.findings if f.count}


def test_a_lawful_fleet_at_work_is_clean(standing: Database) -> None:
    report = audit(standing)
    assert broken(report) == {}
    assert report.clean
    assert [f.name for f in report.findings] == [f"I{n}" for n in (*range(1, 13), 14)]
    assert report.counted["messages"] == 14
    assert summary(report).startswith("clean: 14 messages, ")


def test_an_empty_database_is_clean(database: Database) -> None:
    assert audit(database).clean


def test_the_doubt_rate_is_reported_and_not_judged(fleet: Database) -> None:
    rates = {line.stream: line for line in audit(fleet).doubt}
    marketing, transactional = rates["marketing"], rates["transactional"]
    assert (transactional.armed, transactional.doubted, transactional.in_doubt) == (3, 2, 0)
    assert transactional.rate == pytest.approx(2 / 3)
    assert (marketing.in_doubt, marketing.assumed) == (1, 1)


UNIQUE_OFF = "ALTER TABLE message DROP CONSTRAINT message_effect_key_key;"
ANOTHER_TRY = """
INSERT INTO attempt SELECT message_id, 2, a.owner, {armed}, a.content_sha256, '{outcome}', stage, code,
    enhanced_code, reply, {armed} + interval '1 s'
FROM attempt a JOIN message m ON m.id = a.message_id WHERE m.subscriber_id = {who};
UPDATE message SET attempts = 2, epoch = 2, armed_at = {armed} WHERE subscriber_id = {who}"""
CAPPED = (
    '{"class": "marketing", "topic": "news", "limits": {"cap": {"max": %s, "per": "%s",'
    ' "scope": "%s"}}}'
)
SEEDS = {
    "I1 one effect key twice": (
        {"I1"},
        TWO,
        f"""{UNIQUE_OFF} UPDATE message SET effect_key = sha256('12.first')
        WHERE subscriber_id = 12""",
    ),
    "I1 one step twice under two keys": (
        {"I1"},
        TWO,
        "UPDATE message SET step_id = 'first' WHERE subscriber_id = 12",
    ),
    "I2 accepted twice without a doubt": (
        {"I2"},
        EVIDENCE,
        "UPDATE message SET maybe_delivered = false WHERE subscriber_id = 13",
    ),
    "I2 accepted twice where nothing is resent": (
        {"I2"},
        EVIDENCE,
        "UPDATE message SET stream = 'marketing' WHERE subscriber_id = 13",
    ),
    "I3 tried again after it was accepted": (
        {"I3"},
        WAITS,
        ANOTHER_TRY.format(who=1, outcome="refused", armed="now() - interval '20 min'"),
    ),
    "I3 armed again after it was accepted": (
        {"I3"},
        ARMED,
        """INSERT INTO attempt SELECT id, 1, 'worker', now() - interval '9 min', content_sha256,
            'accepted', 'dot', 250, NULL, NULL, now() - interval '8 min'
        FROM message WHERE subscriber_id = 4;
        UPDATE message SET attempts = 2, epoch = 2 WHERE subscriber_id = 4""",
    ),
    "I3 tried again after a doubt that nobody resent": (
        {"I3"},
        RESENT,
        "UPDATE message SET stream = 'marketing' WHERE subscriber_id = 2",
    ),
    "I2 accepted again when that was known": (
        {"I2", "I3"},
        EVIDENCE,
        """UPDATE attempt SET ended_at = now() - interval '44 min' WHERE epoch = 1
            AND message_id = (SELECT id FROM message WHERE subscriber_id = 13)""",
    ),
    "I3 a third try after a second doubt": (
        {"I3"},
        RESENT,
        """INSERT INTO attempt SELECT message_id, 3, owner, now() - interval '20 min', content_sha256,
            'refused', stage, code, enhanced_code, reply, now() - interval '19 min'
        FROM attempt WHERE epoch = 2
            AND message_id = (SELECT id FROM message WHERE subscriber_id = 2);
        UPDATE attempt SET outcome = 'in_doubt' WHERE epoch = 2
            AND message_id = (SELECT id FROM message WHERE subscriber_id = 2);
        UPDATE message SET attempts = 3, epoch = 3, state = 'failed' WHERE subscriber_id = 2""",
    ),
    "I3 tried again though an operator knew that it arrived": (
        {"I3"},
        RESENT,
        """UPDATE attempt SET evidence = 'operator: arrived'
        WHERE outcome = 'in_doubt' AND message_id = (SELECT id FROM message WHERE subscriber_id = 2)""",
    ),
    "I3 an armed try that is not counted": (
        {"I3"},
        ARMED,
        "UPDATE message SET attempts = 0 WHERE subscriber_id = 4",
    ),
    "I3 an attempt that is not on record": (
        {"I3"},
        WAITS,
        "UPDATE message SET attempts = 2 WHERE subscriber_id = 1",
    ),
    "I4 a stranded enrollment": (
        {"I4"},
        WAITS,
        "UPDATE enrollment SET due_at = NULL WHERE subscriber_id = 1",
    ),
    "I4 an enrollment that is due beside its live message": (
        {"I4"},
        ARMED,
        "UPDATE enrollment SET due_at = now() + interval '1 min' WHERE subscriber_id = 4",
    ),
    "I4 two live messages": (
        {"I4"},
        TWO,
        """UPDATE enrollment SET active = true, ended_at = NULL, end_reason = NULL
        WHERE subscriber_id = 12;
        UPDATE message SET state = 'scheduled', run_at = now(), terminal_at = NULL, armed_at = NULL,
            attempts = 0 WHERE subscriber_id = 12;
        DELETE FROM attempt WHERE message_id IN (SELECT id FROM message WHERE subscriber_id = 12)""",
    ),
    "I4 a finished enrollment whose mail is being worked on": (
        {"I4", "I8"},
        WORKING,
        """UPDATE enrollment SET active = false, ended_at = now() - interval '20 min',
            end_reason = 'goal' WHERE subscriber_id = 5;
        UPDATE message SET watch_at = now() - interval '16 min' WHERE subscriber_id = 5""",
    ),
    "I4 a finished enrollment with a mail to send": (
        {"I4", "I8"},
        DEFERRED,
        """UPDATE message SET run_at = now() - interval '16 min' WHERE subscriber_id = 11""",
    ),
    "I5 a step before its time": (
        {"I5"},
        TWO,
        """UPDATE message SET terminal_at = now() - interval '30 min'
        WHERE subscriber_id = 12 AND step_id = 'first'""",
    ),
    "I5 an earlier try of a step before its time": (
        {"I5"},
        TWO,
        """INSERT INTO attempt SELECT message_id, 0, owner, now() - interval '44 min 30 s',
            content_sha256, 'deferred', stage, 451, NULL, NULL, now() - interval '44 min'
        FROM attempt
        WHERE message_id = (SELECT id FROM message WHERE rfc_message_id = '<12.second@mail.test>');
        UPDATE message SET attempts = 2, created_at = now() - interval '46 min'
        WHERE rfc_message_id = '<12.second@mail.test>'""",
    ),
    "I6 run_at": (
        {"I6"},
        WAITS,
        """ALTER TABLE message DROP CONSTRAINT message_run_at_check;
        UPDATE message SET run_at = now() WHERE subscriber_id = 1""",
    ),
    "I6 watch_at": (
        {"I6"},
        DOUBTED,
        """ALTER TABLE message DROP CONSTRAINT message_watch_at_check;
        UPDATE message SET watch_at = NULL WHERE subscriber_id = 3""",
    ),
    "I6 owner": (
        {"I6"},
        ARMED,
        """ALTER TABLE message DROP CONSTRAINT message_owner_check;
        UPDATE message SET owner = NULL WHERE subscriber_id = 4""",
    ),
    "I6 terminal_at": (
        {"I6"},
        WAITS,
        """ALTER TABLE message DROP CONSTRAINT message_terminal_at_check;
        UPDATE message SET terminal_at = NULL WHERE subscriber_id = 1""",
    ),
    "I7 sent, and nobody accepted it": (
        {"I7"},
        API,
        """DELETE FROM attempt WHERE message_id = (SELECT id FROM message WHERE subscriber_id = 9);
        UPDATE message SET attempts = 0 WHERE subscriber_id = 9""",
    ),
    "I7 sent, and it is known that it did not arrive": (
        {"I7"},
        DOUBTED,
        """UPDATE attempt SET evidence = 'operator: did not arrive'
        WHERE message_id = (SELECT id FROM message WHERE subscriber_id = 3);
        UPDATE message SET state = 'sent', watch_at = NULL, terminal_at = now()
        WHERE subscriber_id = 3;
        UPDATE enrollment SET due_at = now() WHERE subscriber_id = 3""",
    ),
    "I7 a doubt that is not flagged": (
        {"I7"},
        DOUBTED,
        "UPDATE message SET maybe_delivered = false WHERE subscriber_id = 3",
    ),
    "I7 a past doubt that is not flagged": (
        {"I7"},
        RESENT,
        "UPDATE message SET maybe_delivered = false WHERE subscriber_id = 2",
    ),
    "I8 a working lease": (
        {"I8"},
        WORKING,
        "UPDATE message SET watch_at = now() - interval '4 min' WHERE subscriber_id = 5",
    ),
    "I8 an armed lease": (
        {"I8"},
        ARMED,
        """UPDATE message SET armed_at = now() - interval '15 min',
            watch_at = now() - interval '14 min' WHERE subscriber_id = 4""",
    ),
    "I8 an old doubt": (
        {"I8"},
        DOUBTED,
        "UPDATE message SET watch_at = now() - interval '3 min' WHERE subscriber_id = 3",
    ),
    "I8 an overdue message": (
        {"I8"},
        DUE,
        "UPDATE message SET run_at = now() - interval '16 min' WHERE subscriber_id = 6",
    ),
    "I8 an overdue enrollment": (
        {"I8"},
        WAITS,
        "UPDATE enrollment SET due_at = now() - interval '16 min' WHERE subscriber_id = 1",
    ),
    "I8 a parked message whose due time is lost": (
        {"I8"},
        PARKED,
        "UPDATE message SET parked_from = NULL WHERE subscriber_id = 8",
    ),
    "I8 a parked enrollment whose due time is lost": (
        {"I8"},
        WAITS,
        "UPDATE enrollment SET due_at = 'infinity' WHERE subscriber_id = 1",
    ),
    "I9 armed after an opt-out of its topic": (
        {"I9"},
        WAITS,
        """UPDATE consent SET opted_in = false, at = now() - interval '32 min'
        WHERE subscriber_id = 1 AND topic = 'news'""",
    ),
    "I9 armed after an erasure": (
        {"I9"},
        API,
        """UPDATE subscriber SET stopped_at = now() - interval '32 min', stopped_reason = 'erasure'
        WHERE id = 9""",
    ),
    "I9 armed after a stop": (
        {"I9"},
        WAITS,
        """UPDATE subscriber SET stopped_at = now() - interval '32 min', stopped_reason = 'test'
        WHERE id = 1""",
    ),
    "I9 armed after a suppression": (
        {"I9"},
        WAITS,
        "UPDATE suppression SET scope = 'marketing'",
    ),
    "I10 one Message-ID twice": (
        {"I10"},
        TWO,
        """ALTER TABLE message DROP CONSTRAINT message_rfc_message_id_key;
        UPDATE message SET rfc_message_id = '<12.first@mail.test>' WHERE subscriber_id = 12""",
    ),
    "I10 other bytes under a doubt": (
        {"I10"},
        RESENT,
        """UPDATE attempt SET content_sha256 = sha256('other') WHERE outcome = 'in_doubt'
            AND message_id = (SELECT id FROM message WHERE subscriber_id = 2)""",
    ),
    "I10 other bytes in the air": (
        {"I10"},
        DOUBTED,
        "UPDATE message SET content_sha256 = sha256('other') WHERE subscriber_id = 3",
    ),
    "I14 a second mail within the window of a cap of one": (
        {"I14"},
        TWO,
        f"UPDATE sequence_version SET definition = '{CAPPED % ('1', '1h', 'topic')}'",
    ),
    "I11 an attempt from the future": (
        {"I11"},
        FAILED,
        """UPDATE attempt SET epoch = 9 WHERE epoch = 2
            AND message_id = (SELECT id FROM message WHERE subscriber_id = 7)""",
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seeded_violation_is_found_by_its_own_name(fleet: Database, seed: str) -> None:
    names, who, statements = SEEDS[seed]
    with fleet.transaction() as connection:
        script(connection, statements)
        script(connection, RECOUNT)
    found = broken(audit(fleet))
    assert set(found) == names
    assert {person for people in found.values() for person in people} == {who}


def test_an_attempt_whose_message_is_gone_is_found_as_I11(fleet: Database) -> None:
    with fleet.transaction() as connection:
        script(
            connection,
            f"""ALTER TABLE attempt DROP CONSTRAINT attempt_message_id_fkey;
            DELETE FROM message WHERE subscriber_id = {API}""",
        )
        script(connection, RECOUNT)
    report = audit(fleet)
    assert broken(report) == {"I11": [None]}
    row = next(f for f in report.findings if f.name == "I11").rows[0]
    assert row.message_id is not None and row.detail == "attempt of epoch 1 without a message"


def test_who_left_a_topic_that_the_sequence_had_not_then_was_written_to_lawfully(
    fleet: Database,
) -> None:
    with fleet.transaction() as connection:
        script(
            connection,
            """UPDATE sequence SET topic = 'old';
            UPDATE sequence_version SET definition = '{"topic": "news"}'""",
        )
    assert broken(audit(fleet)) == {}


FIRST, SECOND = (f"WHERE subscriber_id = 12 AND step_id = '{step}'" for step in ("first", "second"))
LIVE_THEN = (
    f"UPDATE message SET enrollment_id = NULL, terminal_at = now() - interval '10 min' {FIRST}"
)
LOGGED = """INSERT INTO decision (subscriber_id, kind, detail)
    SELECT 12, '{}', jsonb_build_object('message', id) FROM message {}"""
THIRD = """UPDATE message SET subscriber_id = 12, enrollment_id = NULL,
    created_at = now() - interval '49 min', {} WHERE subscriber_id = 1"""
UNDER_A_CAP = {
    # Statements, what holds for both sequences, and whether it is more than that allows.
    "all of any sequence": (f"UPDATE message SET sequence_key = 'resting' {FIRST}", ("1", "1h", "all"), True),
    "of the topic": (f"UPDATE message SET sequence_key = 'resting' {FIRST}", ("1", "1h", "topic"), True),
    "of another sequence": (
        f"UPDATE message SET sequence_key = 'resting' {FIRST}", ("1", "1h", "sequence"), False,
    ),
    "of a topic that was another one": (
        f"""UPDATE message SET sequence_key = 'resting' {FIRST};
        INSERT INTO sequence_version (sequence_key, version, definition, source, sha256)
        VALUES ('resting', 2, '{{"topic": "old"}}', '', '')""",
        ("1", "1h", "topic"), False,
    ),
    "one of two": ("", ("2", "1h", "topic"), False),
    "outside of the window": ("", ("1", "90s", "topic"), False),
    "given back": (f"UPDATE message SET state = 'failed' {FIRST}", ("1", "1h", "topic"), False),
    "live at that time": (LIVE_THEN, ("1", "1m", "topic"), True),
    "live still": (
        f"""UPDATE message SET enrollment_id = NULL, state = 'in_doubt', terminal_at = NULL,
            watch_at = 'infinity' {FIRST}""",
        ("1", "1m", "topic"), True,
    ),
    "live again, by an operator's hand": (
        f"{LIVE_THEN}; {LOGGED.format('retried', FIRST)}", ("1", "1m", "topic"), False,
    ),
    "live again, beside one of another sequence": (
        f"""{LIVE_THEN}; {LOGGED.format("retried", FIRST)};
        {THIRD.format("sequence_key = 'resting'")}""",
        ("1", "1m", "sequence"), False,
    ),
    "live again, beside one outside of the window": (
        f"""{LIVE_THEN}; {LOGGED.format("retried", FIRST)};
        {THIRD.format("armed_at = now() - interval '48 min', terminal_at = now() - interval '47 min'")}""",
        ("1", "1m", "topic"), False,
    ),
    "another one live again": (
        f"{LIVE_THEN}; {LOGGED.format('retried', SECOND)}", ("1", "1m", "topic"), True,
    ),
    "by an operator's hand, and not again": (
        f"{LIVE_THEN}; {LOGGED.format('resolved', FIRST)}", ("1", "1m", "topic"), True,
    ),
    "capped itself": (
        f"{LIVE_THEN}; UPDATE message SET state = 'capped' {FIRST}", ("1", "1m", "topic"), False,
    ),
    "of a version without a cap": (
        f"UPDATE message SET sequence_version = 0 {FIRST}", ("1", "1h", "topic"), False,
    ),
    "not handed over at all": (
        f"UPDATE message SET state = 'suppressed' {SECOND}", ("1", "1h", "topic"), False,
    ),
    "handed over before there was a cap": (
        "UPDATE message SET sequence_version = 0 WHERE subscriber_id = 12", ("1", "1h", "topic"), False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNDER_A_CAP)
def test_a_cap_is_judged_by_what_held_at_hand_off(fleet: Database, case: str) -> None:
    statements, cap, found = UNDER_A_CAP[case]
    with fleet.transaction() as connection:
        script(connection, f"UPDATE sequence_version SET definition = '{CAPPED % cap}'")
        script(
            connection,
            """INSERT INTO sequence (key, title, stream, version) VALUES ('apart', 'A', 'marketing', 1);
            INSERT INTO sequence_version (sequence_key, version, definition, source, sha256) VALUES
                ('letters', 0, '{"class": "marketing", "topic": "news"}', '', ''),
                ('apart', 1, '{"class": "marketing", "topic": "old"}', '', '')""",
        )
        script(connection, f"{statements};{RECOUNT}" if statements else RECOUNT)
    report = audit(fleet)
    finding = next(each for each in report.findings if each.name == "I14")
    assert [row.subscriber_id for row in finding.rows] == ([TWO] if found else [])


def test_an_audit_reads_one_snapshot_and_can_write_nothing(database: Database) -> None:
    with database.snapshot() as connection:
        assert connection.execute(text("SHOW transaction_isolation")).scalar() == "repeatable read"
        assert connection.execute(text("SHOW transaction_read_only")).scalar() == "on"


def test_an_outcome_that_nobody_counted_is_found_as_I12(fleet: Database) -> None:
    with fleet.transaction() as connection:
        script(connection, "DELETE FROM counter WHERE outcome = 'failed'")
    assert set(broken(audit(fleet))) == {"I12"}


def test_a_counter_that_disagrees_is_found_as_I12(fleet: Database) -> None:
    with fleet.transaction() as connection:
        script(connection, "UPDATE counter SET n = n + 1 WHERE outcome = 'failed'")
    report = audit(fleet)
    assert set(broken(report)) == {"I12"}
    row = next(f for f in report.findings if f.name == "I12").rows[0]
    assert row.detail == "letters / first, failed: counted 2, rows 1"


def test_paused_work_and_held_doubts_are_never_stuck(fleet: Database) -> None:
    with fleet.transaction() as connection:
        script(
            connection,
            """UPDATE message SET run_at = now() - interval '1 day' WHERE subscriber_id IN (6, 8);
            UPDATE message SET watch_at = now() - interval '1 day' WHERE subscriber_id = 3;
            UPDATE stream SET doubt_policy = 'hold', paused_at = now(), pause_reason = 'test'
            WHERE key = 'marketing'""",
        )
    assert broken(audit(fleet)) == {}


def test_a_doubt_resent_under_an_earlier_policy_stays_lawful(fleet: Database) -> None:
    with fleet.transaction() as connection:
        script(
            connection,
            """INSERT INTO content SELECT id, content_sha256, '' FROM message
            WHERE subscriber_id IN (2, 13);
            UPDATE stream SET doubt_policy = 'assume_sent'""",
        )
    assert broken(audit(fleet)) == {}


def test_a_finding_counts_all_rows_and_names_the_first(fleet: Database) -> None:
    with fleet.transaction() as connection:
        script(connection, "UPDATE message SET attempts = attempts + 1")
    report = verify(fleet, DeliverySettings(), VerifySettings(), first=3)
    finding = next(f for f in report.findings if f.name == "I3")
    assert finding.count > 10
    assert len(finding.rows) == 3


# What the far end holds of the fleet above: what was accepted, and what is in doubt or armed.
ARRIVED = [
    "1.first",
    "2.first",
    "9.first",
    "12.first",
    "12.second",
    "13.first",
    "3.first",
    "4.first",
]


def write_ledger(path: Path, mails: list[str]) -> SinkLedger:
    with path.open("a") as file:
        for name in mails:
            line = {
                "at": "2026-01-01T00:00:00+00:00",
                "id": "q",
                "message_id": f"<{name}@mail.test>",
            }
            line |= {"rcpt": "s@example.com", "sender": "", "file": "0.mbox"}
            digest = hashlib.sha256(name.encode()).hexdigest()
            file.write(json.dumps(line | {"sha256": digest, "bytes": 1, "offset": 0}) + "\n")
    return SinkLedger(path)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_a_ledger_that_agrees_is_clean(fleet: Database, ledger: Path) -> None:
    report = audit(fleet, write_ledger(ledger, ARRIVED))
    assert broken(report) == {}
    assert [f.name for f in report.findings[-3:]] == ["W1", "W2", "W3"]


def test_a_copy_is_found_as_W1(fleet: Database, ledger: Path) -> None:
    report = audit(fleet, write_ledger(ledger, [*ARRIVED, "1.first", "3.first"]))
    assert broken(report) == {"W1": [WAITS, DOUBTED]}


def test_a_copy_that_a_resent_doubt_explains_is_counted(fleet: Database, ledger: Path) -> None:
    report = audit(fleet, write_ledger(ledger, [*ARRIVED, "2.first", "13.first"]))
    assert report.clean
    assert report.sink is not None
    assert report.sink.copies_in_doubt == 2
    report = audit(fleet, write_ledger(ledger, ["2.first"]))
    assert broken(report) == {"W1": [RESENT]}


def test_what_arrived_and_is_not_sent_here_is_found_as_W2(fleet: Database, ledger: Path) -> None:
    report = audit(fleet, write_ledger(ledger, [*ARRIVED, "7.first", "6.first", "5.first"]))
    assert broken(report) == {"W2": [WORKING, DUE, FAILED]}


def test_what_is_sent_and_never_arrived_is_found_as_W3(fleet: Database, ledger: Path) -> None:
    report = audit(fleet, write_ledger(ledger, ARRIVED[1:]))
    assert broken(report) == {"W3": [WAITS]}


def test_mails_of_another_database_are_counted_not_judged(fleet: Database, ledger: Path) -> None:
    report = audit(fleet, write_ledger(ledger, [*ARRIVED, "other", "other", "more"]))
    assert report.clean
    assert report.sink is not None
    assert (report.sink.lines, report.sink.known, report.sink.foreign) == (11, 8, 3)


class Growing:
    """A ledger that grows between its measure, before the snapshot, and its reading, after it."""

    def __init__(self, before: list[str], after: list[str]) -> None:
        self.before, self.after = before, after

    def length(self) -> int:
        return len(self.before)

    def message_ids(self) -> Iterator[str]:
        return (f"<{name}@mail.test>" for name in self.before + self.after)


def test_what_arrives_during_the_audit_is_no_stranger_no_copy_and_no_loss(fleet: Database) -> None:
    # Due mail claimed and sent, a doubt resent, and a reply that was on its way.
    report = audit(fleet, Growing(ARRIVED[1:], ["6.first", "3.first", "1.first"]))
    assert broken(report) == {}


def test_a_file_that_is_no_ledger_is_named(fleet: Database, ledger: Path) -> None:
    ledger.write_text("{}\n")
    with pytest.raises(Permanent, match=r"ledger\.jsonl, line 1"):
        audit(fleet, SinkLedger(ledger))


def test_the_command_ends_with_3_and_shows_no_address(
    standing: Database, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", standing.url)
    app = typer.Typer()
    register(app)
    write_ledger(ledger, ARRIVED)
    clean = CliRunner().invoke(app, ["--sink", str(ledger)])
    assert clean.exit_code == 0
    assert json.loads(clean.stdout)["clean"]
    assert clean.stderr.startswith("clean: 14 messages")
    write_ledger(ledger, ["1.first"])
    found = CliRunner().invoke(app, ["--sink", str(ledger), "--json"])
    assert found.exit_code == 3
    report = json.loads(found.stdout)
    assert [f["name"] for f in report["findings"] if f["count"]] == ["W1"]
    assert found.stderr.startswith("broken: W1 (1); 14 messages")
    assert "@" not in found.output
