"""Subscribers who opted in, a sequence of one mail, and a stream that is held until all is planned."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from sqlalchemy import text

from models.session import Database
from tasks.sequence.enroll import BATCH as BATCH_OF_PEOPLE
from tasks.sequence.enroll import enroll_identities
from tasks.sequence.publish import publish
from workers.cli.proof import installed_templates, prove

STREAM = "marketing"
BATCH = 500  # consents a transaction: each takes the lock of its subscriber

ONE_MAIL = """\
key: {key}
title: First figure
class: marketing
topic: product-news
entry: {{manual: true}}
steps:
  - {{id: mail, send: {{template: thank-you/first}}}}
  - {{id: end, exit: {{reason: completed}}}}
"""
SUBSCRIBERS = text("""
INSERT INTO subscriber (address, address_hmac, first_name, locale, zone, attributes)
SELECT 'customer-' || lpad(i::text, 7, '0') || '@example.com', sha256(('customer-' || i)::bytea),
    (ARRAY['Olivia', 'Zoë', 'Liam', 'José', 'Łukasz', 'Imogen', '美咲', 'Γιώργος'])[1 + i % 8],
    'en-GB', 'Europe/London',
    jsonb_build_object('purchases', 1 + i % 9, 'spent', (i::bigint * 7919 % 50000) / 100.0,
        'last_purchase', to_char(date '2026-01-01' + i % 28, 'YYYY-MM-DD'))
FROM generate_series(1, :n) i
""")
TOPIC = text(
    "INSERT INTO topic (key, title) VALUES ('product-news', 'News') ON CONFLICT DO NOTHING"
)
CONSENTS = text("""
INSERT INTO consent (subscriber_id, topic, opted_in, source)
SELECT id, 'product-news', true, 'benchmark' FROM subscriber ORDER BY id LIMIT :n OFFSET :from
""")
IDENTITIES = text("SELECT address_hmac FROM subscriber WHERE id <= :n ORDER BY id")
HOLD = text("""
UPDATE stream SET paused_at = clock_timestamp(), pause_reason = 'benchmark', relay = :relay,
    sender = :sender
WHERE key = :stream
""")
LET_GO = text("""
UPDATE stream SET paused_at = NULL, pause_reason = NULL WHERE key = :stream
RETURNING clock_timestamp()
""")


def bring_in(database: Database, n: int) -> None:
    """Make `n` subscribers, with what the mail tells them about themselves, and their consent."""
    with database.transaction() as connection:
        connection.execute(TOPIC)
        connection.execute(SUBSCRIBERS, {"n": n})
    for start in range(0, n, BATCH):
        with database.transaction() as connection:
            connection.execute(CONSENTS, {"from": start, "n": BATCH})


def enroll(database: Database, key: str, n: int) -> None:
    """Enroll the first `n` subscribers, as a list of addresses is enrolled."""
    with database.transaction() as connection:
        identities = [bytes(each) for each in connection.execute(IDENTITIES, {"n": n}).scalars()]
    for start in range(0, n, BATCH_OF_PEOPLE):
        enroll_identities(database, key, identities[start : start + BATCH_OF_PEOPLE])


def publish_one_mail(database: Database, key: str, folder: Path) -> None:
    """Publish a sequence that sends the first thank-you mail that ships, as an operator would.

    Args:
        database: where to.
        key: of the sequence.
        folder: where its file is written.
    """
    file = folder / f"{key}.yaml"
    file.write_text(ONE_MAIL.format(key=key), encoding="utf-8")
    for proven in prove([str(file)], installed_templates()).require():
        with database.transaction() as connection:
            publish(connection, proven.loaded, proven.source, proven.bundles)


def hold(database: Database, relay: str, sender: str | None = None) -> None:
    """Pause the stream, so that what is planned waits; point it at a relay, and say who writes."""
    with database.transaction() as connection:
        connection.execute(HOLD, {"stream": STREAM, "relay": relay, "sender": sender})


def let_go(database: Database) -> dt.datetime:
    """Let the stream run; when that was, by Postgres's clock."""
    with database.transaction() as connection:
        at: dt.datetime = connection.execute(LET_GO, {"stream": STREAM}).scalar_one()
        return at
