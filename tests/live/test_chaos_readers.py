"""The judge of the edge under faults sees what it stands for: each kind of broken word is found."""

from __future__ import annotations

import datetime as dt
import json
import random

from sqlalchemy import text

from models.session import Database
from tests.live.fleet import Fleet
from workers.chaos.readers import NAME, Readers


def readers(database: Database) -> Readers:
    return Readers(database, "http://127.0.0.1:1", "a secret", random.Random(1))


def test_an_answer_that_is_not_so_is_found_and_one_that_is_so_is_not(fleet: Fleet) -> None:
    (one, two) = fleet.enrolled(2)
    fleet.send()
    database = fleet.database
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT id, subscriber_id FROM message ORDER BY id"))
        mails = {row.subscriber_id: row.id for row in rows}
        connection.execute(
            text("INSERT INTO hit (message_id, agent) VALUES (:id, 'browser')"), {"id": mails[one]}
        )
        for n, kind, told in ((1, NAME, {"n": 1}), (2, "email.clicked", {"message": mails[two]})):
            connection.execute(
                text(
                    "INSERT INTO event (subscriber_id, name, occurred_at, properties)"
                    " VALUES (:who, :kind, now(), CAST(:told AS jsonb))"
                ),
                {"who": one, "n": n, "kind": kind, "told": json.dumps(told)},
            )
    made = readers(database)
    made.clicked, made.told = [mails[one], mails[two]], [1]
    now = dt.datetime.now(dt.UTC)
    made.left = {one: now + dt.timedelta(minutes=1), two: now + dt.timedelta(minutes=1)}
    assert made.faults() == []
    made.clicked.append(999)
    made.told.append(2)
    made.left[one] = now - dt.timedelta(minutes=5)
    clicks, events, armed = made.faults()
    assert clicks.startswith("1 clicks") and clicks.endswith("999")
    assert events.startswith("1 events") and events.endswith("number 2")
    assert armed.startswith("1 mails") and armed.endswith(str(mails[one]))
    # Twice is a fault though nobody was answered.
    made = readers(database)
    with database.transaction() as connection:
        connection.execute(
            text("INSERT INTO event (subscriber_id, name, occurred_at, properties)"
                 " SELECT subscriber_id, name, now(), properties FROM event WHERE name = :name"),
            {"name": NAME},
        )  # fmt: skip
    (twice,) = made.faults()
    assert "not there once, such as number 1" in twice
