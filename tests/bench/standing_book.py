"""A large book: people of whom each had so many mails of a sequence, or waits for them.

The rows are written as the moves would have left them, so that `verify` finds them clean, without
going through the fleet: a million people in about a minute.
"""

from __future__ import annotations

from sqlalchemy import text

from models.session import Database

SEQUENCE = """
INSERT INTO topic (key, title) VALUES ('news', 'News') ON CONFLICT DO NOTHING;
INSERT INTO sequence (key, title, stream, topic, version)
VALUES ('letters', 'L', 'marketing', 'news', 1) ON CONFLICT DO NOTHING;
INSERT INTO sequence_version (sequence_key, version, definition, source, sha256)
VALUES ('letters', 1, '{{"class": "marketing", "topic": "news",
    "limits": {{"cap": {{"max": {cap}, "per": "7d", "scope": "topic"}}}}}}', '', '')
ON CONFLICT DO NOTHING
"""
# Of ten messages of a step one was resent after a doubt, one is assumed sent, and one is due later. Of
# ten people one has that one under way; five wait for a day of the next month, and the others are through.
PEOPLE = """
INSERT INTO subscriber (id, address, address_hmac)
SELECT i, 's' || i || '@example.com', sha256(('s' || i)::bytea) FROM generate_series({first}, {last}) i;
INSERT INTO consent (subscriber_id, topic, opted_in, source, at)
SELECT i, 'news', true, 'benchmark', now() - interval '10 days' FROM generate_series({first}, {last}) i;
INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, active, due_at, ended_at,
    end_reason, entered_at)
SELECT 'letters', 1, i, i % 10 = 3 OR i % 2 = {waiting},
    CASE WHEN i % 2 = {waiting} AND i % 10 <> 3
         THEN now() + interval '1 day' + i % 2592000 * interval '1 second' END,
    CASE WHEN i % 10 <> 3 AND i % 2 <> {waiting} THEN now() - interval '1 hour' END,
    CASE WHEN i % 10 <> 3 AND i % 2 <> {waiting} THEN 'completed' END, now() - interval '10 days'
FROM generate_series({first}, {last}) i;
INSERT INTO message (effect_key, rfc_message_id, stream, sequence_key, sequence_version, step_id,
    entry_no, enrollment_id, subscriber_id, template, content_sha256, state, run_at, watch_at,
    terminal_at, epoch, takes, armed_at, attempts, maybe_delivered, created_at)
SELECT sha256(convert_to(e.id || '.' || n, 'UTF8')), '<' || e.id || '.' || n || '@mail.test>',
    'marketing', 'letters', 1, 'mail-' || n, 1, e.id, e.subscriber_id, 'test/mail',
    CASE WHEN w.kind <> 3 THEN sha256(convert_to(e.id || '.' || n, 'UTF8')) END,
    CAST(CASE w.kind WHEN 2 THEN 'sent_assumed' WHEN 3 THEN 'scheduled' ELSE 'sent' END AS message_state),
    CASE WHEN w.kind = 3 THEN now() + interval '1 day' END, NULL,
    CASE WHEN w.kind <> 3 THEN w.ended END,
    CASE w.kind WHEN 1 THEN 2 WHEN 3 THEN 0 ELSE 1 END, 1,
    CASE WHEN w.kind <> 3 THEN w.ended - interval '1 min' END,
    CASE w.kind WHEN 1 THEN 2 WHEN 3 THEN 0 ELSE 1 END, w.kind IN (1, 2), w.ended - interval '2 hours'
FROM enrollment e, generate_series(1, {steps}) n, LATERAL (
    SELECT CASE WHEN e.subscriber_id % 10 = 3 AND n < {steps} THEN 0 ELSE e.subscriber_id % 10 END AS kind,
        now() - interval '9 days' + n * interval '3 hours' AS ended) w
WHERE e.sequence_key = 'letters' AND e.subscriber_id BETWEEN {first} AND {last};
INSERT INTO attempt (message_id, epoch, owner, armed_at, content_sha256, outcome, stage, ended_at)
SELECT m.id, t, 'worker', m.armed_at - (m.attempts - t) * interval '1 hour', m.content_sha256,
    CAST(CASE WHEN m.state = 'sent_assumed' OR t < m.attempts THEN 'in_doubt' ELSE 'accepted' END
        AS attempt_outcome), 'dot', m.armed_at + interval '1 min' - (m.attempts - t) * interval '1 hour'
FROM message m, generate_series(1, m.attempts) t
WHERE m.sequence_key = 'letters' AND m.subscriber_id BETWEEN {first} AND {last};
DELETE FROM counter WHERE sequence_key = 'letters';
INSERT INTO counter (sequence_key, step_id, shard, outcome, n)
SELECT sequence_key, step_id, id & 3, state, count(*) FROM message
WHERE sequence_key = 'letters' AND state NOT IN ('scheduled', 'working', 'armed', 'in_doubt')
GROUP BY 1, 2, 3, 4
"""
ROOM = 10_000_000
"""Ids below are those of whoever else is in the database."""


def fill(
    database: Database, people: int, steps: int, *, already: int = 0, waits: bool = True
) -> None:
    """Write a book, or what it lacks to be one of `people`.

    Args:
        database: where; nothing else may be at work on it but for its own people.
        people: in the book afterwards; each is enrolled once.
        steps: mails of each; 0: they wait, or are through, without any.
        already: people that it has.
        waits: whether every second one waits for a day of the next month.
    """
    values = {
        "first": ROOM + already + 1,
        "last": ROOM + people,
        "steps": steps,
        "cap": max(steps, 1),
        "waiting": 0 if waits else 2,
    }
    configure(database, "SET max_wal_size = '16GB'")
    with database.transaction() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        for statement in f"{SEQUENCE};{PEOPLE}".format(**values).split(";"):
            connection.execute(text(statement))
    configure(database, "RESET max_wal_size")
    with database.raw() as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def configure(database: Database, how: str) -> None:
    """Change the whole server: without a checkpoint every gigabyte a book is written in half the time."""
    with database.raw() as connection:
        connection.execute(f"ALTER SYSTEM {how}")
        connection.execute("SELECT pg_reload_conf()")
