"""Who is stopped, and what that ends: all that is theirs and not out yet, nothing of anybody else."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.moves.stop import stop_subscribers
from tests.live import seeds

STATES = ("scheduled", "working", "armed", "in_doubt", "sent", "failed")

# One message in each state for each person, as if the moves had brought them there.
MESSAGES = text("""
INSERT INTO message (effect_key, rfc_message_id, stream, sequence_key, step_id, entry_no, enrollment_id,
    subscriber_id, template, state, run_at, watch_at, owner, armed_at, maybe_delivered, terminal_at,
    template_version, variables, frozen_at, content_sha256)
SELECT sha256((e.id || s)::bytea), '<' || e.id || s || '@test>', 'marketing', e.sequence_key, 'mail', 1,
    e.id, e.subscriber_id, 'test/mail', CAST(s AS message_state),
    CASE WHEN s = 'scheduled' THEN now() END,
    CASE WHEN s IN ('working', 'armed', 'in_doubt') THEN now() + interval '1 hour' END,
    CASE WHEN s IN ('working', 'armed') THEN 'worker' END,
    CASE WHEN s IN ('armed', 'in_doubt', 'sent') THEN now() END, s IN ('armed', 'in_doubt'),
    CASE WHEN s IN ('sent', 'failed') THEN now() END, t.sha256, '{}', now(), sha256('')
FROM enrollment e, unnest(CAST(:states AS text[])) s, template_source t
WHERE e.sequence_key = 'one-mail' AND t.name = 'test/mail'
""")
FOUND = text("""
SELECT m.subscriber_id, array_agg(m.state::text ORDER BY m.id) AS states,
    count(*) FILTER (WHERE m.run_at IS NOT NULL OR m.watch_at IS NOT NULL) AS live
FROM message m GROUP BY 1
""")
ENROLLED = text("""
SELECT subscriber_id, sequence_key, active, end_reason, due_at, parked_from FROM enrollment
""")


@pytest.fixture
def people(database: Database) -> list[int]:
    """Three: each in one sequence with a mail in every state, and long out of another one."""
    people = seeds.subscribers(database, 3)
    one = seeds.ONE_MAIL.format(class_="marketing", template="test/mail")
    seeds.enroll(database, seeds.sequence(database, one), people)
    seeds.enroll(database, seeds.sequence(database, seeds.TWO_MAILS), people)
    with database.transaction() as connection:
        connection.execute(
            text(
                "UPDATE enrollment SET active = false, end_reason = 'completed', due_at = NULL,"
                " ended_at = '2026-01-01' WHERE sequence_key = 'two-mails'"
            )
        )
        connection.execute(text("ALTER TABLE message DISABLE TRIGGER USER"))
        connection.execute(MESSAGES, {"states": list(STATES)})
        connection.execute(text("ALTER TABLE message ENABLE TRIGGER USER"))
    return people


def stopped(database: Database) -> dict[int, tuple[datetime | None, str | None]]:
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT id, stopped_at, stopped_reason FROM subscriber"))
        return {row.id: (row.stopped_at, row.stopped_reason) for row in rows}


def found(database: Database) -> dict[int, Any]:
    with database.transaction() as connection:
        return {row.subscriber_id: row for row in connection.execute(FOUND)}


def test_a_stop_ends_what_is_not_out_yet_and_leaves_the_rest(
    database: Database, people: list[int]
) -> None:
    before = found(database)
    with database.transaction() as connection:
        assert stop_subscribers(connection, people[1:], "operator") == (2, 4)
    marks, after = stopped(database), found(database)
    assert [marks[each][1] for each in people] == [None, "operator", "operator"]
    assert after[people[0]] == before[people[0]], "nobody else's"
    for each in people[1:]:
        # What may be out, and what is over, keeps its state: a stop is no word on them.
        assert after[each].states == ["suppressed", "suppressed", *STATES[2:]]
        assert after[each].live == 2
    with database.transaction() as connection:
        enrolled = connection.execute(ENROLLED).all()
    for row in enrolled:
        if row.sequence_key == "two-mails":
            assert row.end_reason == "completed", "who had left keeps the reason"
        elif row.subscriber_id == people[0]:
            assert row.active and row.due_at is not None
        else:
            assert (row.active, row.end_reason, row.due_at) == (False, "operator", None)


def test_a_second_stop_changes_neither_time_nor_reason(
    database: Database, people: list[int]
) -> None:
    with database.transaction() as connection:
        stop_subscribers(connection, people[:1], "complaint")
    before = stopped(database)
    with database.transaction() as connection:
        assert stop_subscribers(connection, people, "operator") == (2, 4)
    after = stopped(database)
    assert after[people[0]] == before[people[0]]
    assert after[people[1]][1] == "operator"


def test_a_decision_is_written_for_each_enrollment_that_ended(
    database: Database, people: list[int]
) -> None:
    with database.transaction() as connection:
        stop_subscribers(connection, people[:2], "unsubscribe")
        told = connection.execute(
            text(
                "SELECT subscriber_id, sequence_key, step_id, kind, reason FROM decision ORDER BY 1"
            )
        ).all()
    exits = [row for row in told if row.kind == "exited"]
    assert [(row.subscriber_id, row.sequence_key, row.reason) for row in exits] == [
        (people[0], "one-mail", "unsubscribe"),
        (people[1], "one-mail", "unsubscribe"),
    ]
