"""A database for the model: three people, a sequence of two mails, one of one, an API mail."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Connection, text

from models.session import Database
from tasks.send.render import Bundle
from tests.live import seeds
from tests.model.inside import Direct, equip
from tests.model.world import ROWS

TWO = """
key: two
title: Two mails
class: marketing
topic: news
entry: {manual: true}
steps:
  - {id: first, send: {template: test/mail}}
  - {id: second, send: {template: test/mail}}
"""
API = """
INSERT INTO message (effect_key, rfc_message_id, stream, subscriber_id, template, run_at, expires_at,
    allowed)
SELECT sha256('api'), '<api@mail.test>', 'marketing', min(id), 'test/mail', now(),
    now() + interval '3 days', tstzmultirange(tstzrange(now() - interval '1 h', now() + interval '2 h'),
        tstzrange(now() + interval '20 h', now() + interval '30 h'))
FROM subscriber
"""


@pytest.fixture(scope="module")
def standing(postgres_url: str, _template: str) -> Iterator[Database]:
    """What every example begins with, and is rolled back to."""
    # One a module: two modules may run at once, each in a process of its own.
    name = f"test_model_{uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE {_template}")
        for setting in ("plan_cache_mode = force_generic_plan", "jit = off"):
            server.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {name} SET {setting}")
        database = Database(postgres_url.rpartition("/")[0] + "/" + name)
        people = seeds.subscribers(database, 5)
        seeds.template(database, Bundle("test/other", {"subject.txt": "Other", "body.txt": "No."}))
        seeds.enroll(database, seeds.sequence(database, TWO), people)
        one = seeds.ONE_MAIL.format(class_="transactional", template="test/mail")
        seeds.enroll(database, seeds.sequence(database, one), people[1:])
        with database.transaction() as connection:
            connection.execute(text(API))
        yield database
        database.close()
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def session(standing: Database) -> Iterator[Connection]:
    """A connection to it, equipped for thousands of small transactions."""
    with standing.engine.connect() as connection, pytest.MonkeyPatch.context() as patch:
        equip(connection, ROWS)
        patch.setattr("tasks.send.replay.Pipeline", Direct)
        yield connection
