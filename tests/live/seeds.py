"""What the live tests put into a database: subscribers, a published sequence, enrollments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from sqlalchemy import text

from models.session import Database
from schedules.loader import loads
from tasks.send.render import Bundle

MAIL = Bundle("test/mail", {"subject.txt": "Hello {{ subscriber.first_name }}", "body.txt": "Hi."})

ONE_MAIL = """
key: one-mail
title: One mail
class: {class_}
topic: news
entry: {{manual: true}}
steps:
  - {{id: mail, send: {{template: {template}}}}}
"""

TWO_MAILS = """
key: two-mails
title: Two mails
class: marketing
topic: news
entry: {manual: true}
steps:
  - {id: first, send: {template: test/mail}}
  - {id: wait, wait: {delay: 1s}}
  - {id: second, send: {template: test/mail}}
"""


def subscribers(database: Database, n: int, *, domain: str = "example.com") -> list[int]:
    """`n` subscribers with made-up addresses; returns their ids."""
    with database.transaction() as connection:
        rows = connection.execute(
            text(
                "INSERT INTO subscriber (address, address_hmac, first_name, zone)"
                " SELECT 'person' || i || '@' || :domain, sha256(('person' || i || :domain)::bytea),"
                " 'Zoë', 'Europe/Berlin' FROM generate_series(1, :n) i RETURNING id"
            ),
            {"n": n, "domain": domain},
        )
        return sorted(rows.scalars())


def template(database: Database, bundle: Bundle) -> None:
    """Publish a mail."""
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO template_source (sha256, name, parts)"
                " VALUES (:sha, :name, CAST(:parts AS jsonb)) ON CONFLICT DO NOTHING"
            ),
            {
                "sha": bundle.sha256,
                "name": bundle.name,
                "parts": json.dumps(bundle.stored),
            },
        )
        connection.execute(
            text(
                "INSERT INTO template (name, sha256) VALUES (:name, :sha)"
                " ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256"
            ),
            {"sha": bundle.sha256, "name": bundle.name},
        )


def sequence(database: Database, source: str, bundles: Mapping[str, Bundle] | None = None) -> str:
    """Publish version 1 of a sequence and its mails; returns its key."""
    for bundle in (bundles or {MAIL.name: MAIL}).values():
        template(database, bundle)
    definition = loads(source, "test.yaml")
    with database.transaction() as connection:
        connection.execute(
            text("INSERT INTO topic (key, title) VALUES (:k, :k) ON CONFLICT DO NOTHING"),
            {"k": definition.topic},
        )
        connection.execute(
            text(
                "INSERT INTO sequence (key, title, stream, topic, version)"
                " VALUES (:key, :title, :stream, :topic, 1)"
            ),
            {
                "key": definition.key,
                "title": definition.title,
                "stream": definition.class_,
                "topic": definition.topic,
            },
        )
        connection.execute(
            text(
                "INSERT INTO sequence_version (sequence_key, version, definition, source, sha256)"
                " VALUES (:key, 1, CAST(:definition AS jsonb), :source, :sha)"
            ),
            {
                "key": definition.key,
                "definition": definition.canonical(),
                "source": source,
                "sha": hashlib.sha256(definition.canonical().encode()).digest(),
            },
        )
    return definition.key


def enroll(database: Database, key: str, ids: list[int]) -> None:
    """Opt these in to the sequence's topic, and enroll them, due now."""
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO consent (subscriber_id, topic, opted_in, source)"
                " SELECT id, q.topic, true, 'test' FROM unnest(CAST(:ids AS bigint[])) id, sequence q"
                " WHERE q.key = :key ON CONFLICT DO NOTHING"
            ),
            {"key": key, "ids": ids},
        )
        connection.execute(
            text(
                "INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, due_at)"
                " SELECT :key, 1, id, clock_timestamp() FROM unnest(CAST(:ids AS bigint[])) id"
            ),
            {"key": key, "ids": ids},
        )


def states(database: Database) -> dict[str, int]:
    """How many messages stand in each state."""
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT state::text, count(*) FROM message GROUP BY 1"))
        return {row[0]: row[1] for row in rows}
