"""Erasure: nothing of a person is left but that they were written to, and that they said stop."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from models.session import Database
from tasks.audience.address import address_hmac
from tasks.audience.given import bring
from tasks.audience.one_event import record_event
from tasks.audience.personal_data import PARTS, export
from tasks.audience.store import check_secret, get
from tasks.moves.erase import AGAIN, ONCE, Erased, erase
from tasks.moves.settings import DeliverySettings
from tasks.moves.withdraw import snooze
from tasks.upkeep.reap import forget_erased
from tasks.upkeep.verify import VerifySettings, verify
from tests.live.fleet import Fleet

SECRET = b"an identity of the tests"
WHO = "person1@example.com"
NAMES = ("person1", "Zoë", "crm-1", "Berlin", "4711-secret", "relay said person1")


@pytest.fixture
def known(fleet: Fleet) -> tuple[Fleet, int]:
    """Somebody who got a mail, did things, and stands in every table that can hold a person."""
    (who, other) = fleet.enrolled(2)
    fleet.send()
    with fleet.database.transaction() as connection:
        for each, number in ((who, 1), (other, 2)):
            hmac = address_hmac(SECRET, f"person{number}@example.com")
            connection.execute(
                text("UPDATE subscriber SET address_hmac = :hmac WHERE id = :id"),
                {"hmac": hmac, "id": each},
            )
        values = {"who": who, "other": other}
        for statement in (
            "UPDATE subscriber SET external_id = 'crm-1', attributes = '{\"card\"\\:\"4711-secret\"}'"
            " WHERE id = :who",
            "UPDATE attempt a SET reply = 'relay said ' || s.address FROM message m"
            " JOIN subscriber s ON s.id = m.subscriber_id WHERE m.id = a.message_id",
            'UPDATE enrollment SET event = \'{"card"\\: "4711-secret"}\' WHERE subscriber_id = :who',
            'UPDATE message SET event = \'{"card"\\: "4711-secret"}\' WHERE subscriber_id = :who',
            'UPDATE decision SET detail = \'{"because"\\: "4711-secret"}\' WHERE subscriber_id = :who',
            "INSERT INTO score (name, subscriber_id, value, artifact, scored_at)"
            " SELECT 'churn', x, 0.5, 'a', now() FROM unnest(ARRAY[:who, :other]) x",
            "INSERT INTO segment (key, title, condition, refresh, members)"
            " VALUES ('all', 'All', 'true', '1h', 2)",
            "INSERT INTO segment_present SELECT 'all', x, 1, now() FROM unnest(ARRAY[:who, :other]) x",
            "INSERT INTO segment_edge (segment, subscriber_id, join_no, edge, cause)"
            " SELECT 'all', x, 1, 'join', 'definition' FROM unnest(ARRAY[:who, :other]) x",
            "INSERT INTO content SELECT id, content_sha256, 'Hello Zoë' FROM message",
            "INSERT INTO hit (message_id, agent) SELECT id, 'browser' FROM message",
            "INSERT INTO event_refused (source, payload, digest, reason) VALUES"
            " ('shop', '{\"email\"\\: \"Person1@example.com\"}', 'd', 'odd')",
        ):
            connection.execute(text(statement), values)
        for each in (who, other):
            record_event(connection, each, "purchase", properties={"card": "4711-secret"})
        snooze(connection, who, None, "test")
    return fleet, who


def everything(database: Database) -> str:
    """All rows of all tables, as text."""
    with database.transaction() as connection:
        found = []
        for table in inspect(connection).get_table_names():
            if table not in ("template_source", "alembic_version", "sequence_version"):
                rows = connection.execute(text(f"SELECT to_jsonb(t)::text FROM {table} t"))
                found += [f"{table} {row}" for row in rows.scalars()]
    return "\n".join(found)


def erased(fleet: Fleet, who: int) -> Erased:
    with fleet.database.transaction() as connection:
        return erase(connection, who, WHO, "crm-1")


def one(database: Database, sql: str, **values: Any) -> Any:
    with database.transaction() as connection:
        return connection.execute(text(sql), values).scalar_one()


def test_what_is_known_of_a_person_goes_and_nothing_of_anybody_else(
    known: tuple[Fleet, int],
) -> None:
    fleet, who = known
    before = everything(fleet.database)
    assert all(name in before for name in NAMES)
    done = erased(fleet, who)
    assert done.in_flight == 0 and done.rows["events"] == done.rows["scores"] == 1
    after = everything(fleet.database)
    left = [line for line in after.splitlines() if any(n in line for n in NAMES)]
    others = [line for line in left if "person2" in line or '"subscriber_id": 2' in line]
    assert not [
        line for line in left
        if f'"subscriber_id": {who},' in line or line.startswith("event_refused") or "person1" in line
    ], left  # fmt: skip
    assert others, "the other one's stay"
    assert one(fleet.database, "SELECT members FROM segment") == 1
    for table in ("event", "score", "segment_edge", "content", "hit"):
        assert one(fleet.database, f"SELECT count(*) FROM {table}") == 1, table
    # What was sent still counts, and every promise holds.
    assert fleet.states() == {"sent": 2}
    assert one(fleet.database, "SELECT sum(n) FROM counter WHERE outcome = 'sent'") == 2
    assert verify(fleet.database, DeliverySettings(), VerifySettings()).clean


def test_the_stop_holds_though_the_address_comes_in_again(known: tuple[Fleet, int]) -> None:
    fleet, who = known
    erased(fleet, who)
    told = bring(
        fleet.database,
        [{"email": WHO, "first_name": "Zoë", "external_id": "crm-1", "topics": {"news": True}}],
        secret=SECRET,
        source="api",
    )
    assert told.new == 0
    row = "SELECT first_name IS NULL AND address LIKE 'erased-%' AND stopped_reason = 'erasure'"
    assert one(fleet.database, f"{row} FROM subscriber WHERE id = :id", id=who)
    assert one(fleet.database, "SELECT reason FROM suppression") == "erasure"
    with fleet.database.transaction() as connection:
        check_secret(connection, SECRET)  # the other one tells
        record_event(connection, who, "purchase", properties={"card": "4711-secret"})
    # What others record of them since, upkeep takes.
    assert forget_erased(fleet.database) >= 2
    assert one(fleet.database, "SELECT count(*) FROM event WHERE subscriber_id = :id", id=who) == 0
    assert (
        one(fleet.database, "SELECT count(*) FROM consent WHERE subscriber_id = :id", id=who) == 0
    )
    assert forget_erased(fleet.database) == 0


def test_a_frozen_content_has_one_door_and_a_mail_in_flight_keeps_what_settles_it(
    known: tuple[Fleet, int],
) -> None:
    fleet, who = known
    forget = "UPDATE message SET content_sha256 = NULL WHERE subscriber_id = :id RETURNING 1"
    with pytest.raises(IntegrityError, match="its content is frozen"):
        one(fleet.database, forget, id=who)
    with fleet.database.transaction() as connection:
        connection.execute(text("ALTER TABLE message DISABLE TRIGGER USER"))
        connection.execute(
            text(
                "UPDATE message SET state = 'in_doubt', terminal_at = NULL, reason = 'no_reply',"
                " watch_at = now() + interval '1 h', maybe_delivered = true WHERE subscriber_id = :id"
            ),
            {"id": who},
        )
        connection.execute(text("ALTER TABLE message ENABLE TRIGGER USER"))
    assert erased(fleet, who).in_flight == 1
    hash_left = "SELECT count(content_sha256) FROM message WHERE subscriber_id = :id"
    assert one(fleet.database, hash_left, id=who) == 1
    with fleet.database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE message SET state = 'sent_assumed', watch_at = NULL, terminal_at = now(),"
                " reason = 'assumed' WHERE subscriber_id = :id"
            ),
            {"id": who},
        )
    assert forget_erased(fleet.database) >= 1
    assert one(fleet.database, hash_left, id=who) == 0


def test_an_export_has_every_table_that_names_a_person_and_an_erasure_looks_at_each(
    known: tuple[Fleet, int],
) -> None:
    fleet, _ = known
    with fleet.database.snapshot() as connection:
        found = export(connection, get(connection, WHO, SECRET))
        columns = {
            table: {c["name"] for c in inspect(connection).get_columns(table)}
            for table in inspect(connection).get_table_names()
        }
    assert found["subscriber"]["attributes"] == {"card": "4711-secret"}
    assert found["event"][0]["properties"] == {"card": "4711-secret"}
    assert {"message", "attempt", "consent", "score", "event_refused", "hit"} <= found.keys()
    assert "person2" not in json.dumps(found)
    named = {
        table for table, names in columns.items()
        if names & {"subscriber_id", "message_id", "address_hmac"}
        and not table.startswith("event_default") and not table.startswith("event_2")
    }  # fmt: skip
    # Notes that say "look at this person", which are gone in seconds.
    passing = {"event_wake", "event_news", "segment_touch", "zone_change", "score_request"}
    assert named - passing - {"subscriber"} <= PARTS.keys()
    looked_at = "\n".join(map(str, [*AGAIN.values(), *ONCE.values()]))
    # What is counted stays, of a number that names nobody any more: conversions, and arms.
    kept = {"subscriber", "suppression", "conversion", "experiment_assignment", "segment_present"}
    assert not {table for table in named - kept if table not in looked_at}
