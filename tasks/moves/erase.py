"""Erasure: what is known of a subscriber goes, that they were written to and said stop stays.

The row of the subscriber stays without a word about them, and its `address_hmac`, by which a stop
holds though their address comes in again; what was sent still counts. A trigger keeps the row as it
is from then on, and is the one that lets a frozen content be forgotten.

What is in flight keeps what it needs to be settled; `sweep` takes that later, with whatever others have
recorded of them since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from tasks.moves.stop import LOCK, stop_subscriber

REASON: Final = "erasure"
AT_ONCE: Final = 500

# Also for whoever deletes the row some day: the address itself gets nothing.
SUPPRESS: Final = text("""
INSERT INTO suppression (address_hmac, scope, reason)
SELECT address_hmac, 'all', :reason FROM subscriber WHERE id = ANY(:ids)
ON CONFLICT (address_hmac, scope) DO NOTHING
""")
BLANK: Final = text("""
UPDATE subscriber SET address = 'erased-' || id || '@erased.invalid', external_id = NULL,
    first_name = NULL, locale = NULL, zone = NULL, attributes = '{}', stopped_reason = :reason,
    updated_at = clock_timestamp(), erased_at = clock_timestamp()
WHERE id = ANY(:ids) AND erased_at IS NULL
""")
ERASED: Final = text("""
SELECT id FROM subscriber WHERE erased_at IS NOT NULL AND id > :after ORDER BY id LIMIT :n
""")

# A text of a model that no other mail has is theirs; it may hold a word that they alone have.
WORDS: Final = text("""
WITH own AS MATERIALIZED (
    SELECT DISTINCT m.words FROM message m WHERE m.subscriber_id = ANY(:ids) AND m.words IS NOT NULL),
asked AS (
    DELETE FROM asked a USING enrollment e
    WHERE e.id = a.enrollment_id AND e.subscriber_id = ANY(:ids) RETURNING a.key),
alone AS (
    SELECT w.key FROM wording w WHERE w.slots IN (SELECT words FROM own)
      AND NOT EXISTS (SELECT FROM message o
          WHERE o.words = w.slots AND o.subscriber_id <> ALL(:ids))
    UNION
    SELECT d.key FROM asked d WHERE NOT EXISTS (SELECT FROM message o WHERE o.words IS NOT NULL
        AND o.words = (SELECT w.slots FROM wording w WHERE w.key = d.key)
        AND o.subscriber_id <> ALL(:ids)))
SELECT key FROM alone
""")
DROP_WORDS: Final = text("""
DELETE FROM wording w WHERE w.key = ANY(CAST(:keys AS bytea[]))
  AND NOT EXISTS (SELECT FROM asked a WHERE a.key = w.key)
""")

# In the order of the locks: enrollments, then messages. What is live keeps the hash that it is settled by.
_ENROLLMENTS = """
UPDATE enrollment SET wait_rule = NULL, dedupe_key = NULL, event = NULL
WHERE subscriber_id = ANY(:ids) AND NOT active
  AND (wait_rule IS NOT NULL OR dedupe_key IS NOT NULL OR event IS NOT NULL)
"""
_MESSAGES = """
UPDATE message SET variables = NULL, words = NULL, event = NULL,
    content_sha256 = CASE WHEN terminal_at IS NULL THEN content_sha256 END
WHERE subscriber_id = ANY(:ids)
  AND (variables IS NOT NULL OR words IS NOT NULL OR event IS NOT NULL
       OR (terminal_at IS NOT NULL AND content_sha256 IS NOT NULL))
"""
_CONTENT = """
DELETE FROM content c USING message m
WHERE m.id = c.message_id AND m.subscriber_id = ANY(:ids) AND m.terminal_at IS NOT NULL
"""
# A relay's words name the mailbox, and those of evidence may.
_ATTEMPTS = """
UPDATE attempt a SET reply = NULL, evidence = split_part(a.evidence, ';', 1)
FROM message m WHERE m.id = a.message_id AND m.subscriber_id = ANY(:ids)
  AND (a.reply IS NOT NULL OR a.evidence LIKE '%;%')
"""
_HITS = """
DELETE FROM hit h USING message m WHERE m.id = h.message_id AND m.subscriber_id = ANY(:ids)
"""
# Bounces still count; what a host said of the mailbox is theirs.
_DIAGNOSTICS = """
UPDATE feedback SET diagnostic = NULL WHERE subscriber_id = ANY(:ids) AND diagnostic IS NOT NULL
"""
_OUTBOX = """
DELETE FROM webhook_outbox WHERE subscriber_id = ANY(:ids) AND delivered_at IS NULL
"""
_CALLED = """
UPDATE webhook_outbox SET payload = '{}' WHERE subscriber_id = ANY(:ids) AND payload <> '{}'
"""
# Also what was told and is kept to be told again; that they are erased is told under our own id alone.
_TOLD = """
DELETE FROM webhook_delivery WHERE subscriber_id = ANY(:ids) AND type <> 'subscriber.erased'
"""
_DECISIONS = """
UPDATE decision SET detail = '{}' WHERE subscriber_id = ANY(:ids) AND detail <> '{}'
"""
# What came meanwhile comes again: by mails in flight, and by whoever still tells of them.
AGAIN: Final = {
    "enrollments": text(_ENROLLMENTS),
    "messages": text(_MESSAGES),
    "contents": text(_CONTENT),
    "attempts": text(_ATTEMPTS),
    "hits": text(_HITS),
    "decisions": text(_DECISIONS),
    "diagnostics": text(_DIAGNOSTICS),
    "calls": text(_OUTBOX),
    "calls_made": text(_CALLED),
    "told": text(_TOLD),
    **{
        name: text(f"DELETE FROM {table} WHERE subscriber_id = ANY(:ids)")
        for name, table in (
            ("events", "event"),
            ("news", "event_news"),
            ("wakes", "event_wake"),
            ("touches", "segment_touch"),
            ("zones", "zone_change"),
            ("requests", "entry_request"),
            ("refusals", "entry_refusal"),
            ("consents", "consent"),
            ("opt_ins", "opt_in"),
            ("breaks", "snooze"),
        )
    },
}
# Held in the order of their keys, so that no evaluation counts them at the same time.
HOLD_SEGMENTS: Final = text("""
SELECT key FROM segment WHERE key IN (
    SELECT segment FROM segment_present WHERE subscriber_id = ANY(:ids)) ORDER BY key FOR UPDATE
""")
LEAVE_SEGMENTS: Final = text("""
WITH gone AS (
    DELETE FROM segment_present WHERE subscriber_id = ANY(:ids) RETURNING segment),
counted AS (
    UPDATE segment g SET members = g.members - x.n
    FROM (SELECT segment, count(*) AS n FROM gone GROUP BY 1) x WHERE g.key = x.segment)
SELECT count(*) FROM gone
""")
ONCE: Final = {
    name: text(f"DELETE FROM {table} WHERE subscriber_id = ANY(:ids)")
    for name, table in (
        ("edges", "segment_edge"),
        ("labels", "segment_member"),
        ("scores", "score"),
        ("score_requests", "score_request"),
        ("entry_scores", "entry_score"),
    )
}
FORGET_REFUSED: Final = text("""
DELETE FROM event_refused
WHERE lower(payload ->> 'email') = lower(:address) OR payload ->> 'external_id' = :external_id
""")
IN_FLIGHT: Final = text("""
SELECT count(*) FROM message WHERE subscriber_id = ANY(:ids) AND terminal_at IS NULL
""")


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows of each kind were changed or deleted, and how many mails are in flight yet."""

    rows: dict[str, int]
    in_flight: int


def erase(
    connection: Connection, subscriber_id: int, address: str, external_id: str | None
) -> Erased:
    """Erase one subscriber for good; nothing more is sent to them, what is queued neither.

    Args:
        connection: inside a transaction.
        subscriber_id: who.
        address: theirs, as it stands there: refused events name it.
        external_id: likewise.
    """
    ids = [subscriber_id]
    ended, suppressed = stop_subscriber(connection, subscriber_id, REASON)
    connection.execute(SUPPRESS, {"ids": ids, "reason": REASON})
    connection.execute(BLANK, {"ids": ids, "reason": REASON})
    rows = {"enrollments_ended": ended, "messages_suppressed": suppressed}
    keys = list(connection.execute(WORDS, {"ids": ids}).scalars())
    rows["texts"] = connection.execute(DROP_WORDS, {"keys": keys}).rowcount if keys else 0
    rows |= _again(connection, ids)
    connection.execute(HOLD_SEGMENTS, {"ids": ids})
    rows["segments"] = int(connection.execute(LEAVE_SEGMENTS, {"ids": ids}).scalar_one())
    rows |= {name: connection.execute(sql, {"ids": ids}).rowcount for name, sql in ONCE.items()}
    refused = {"address": address, "external_id": external_id}
    rows["events_refused"] = connection.execute(FORGET_REFUSED, refused).rowcount
    in_flight = int(connection.execute(IN_FLIGHT, {"ids": ids}).scalar_one())
    return Erased({name: n for name, n in rows.items() if n}, in_flight)


def sweep(connection: Connection, after: int = 0) -> tuple[int, int]:
    """Take what came of up to 500 erased subscribers since, behind the id `after`.

    Returns:
        (rows changed or deleted, the id to go on behind; 0: that was all).
    """
    ids = list(connection.execute(ERASED, {"after": after, "n": AT_ONCE}).scalars())
    if not ids:
        return 0, 0
    connection.execute(LOCK, {"ids": ids})
    changed = sum(_again(connection, ids).values())
    return changed, ids[-1] if len(ids) == AT_ONCE else 0


def _again(connection: Connection, ids: Sequence[int]) -> dict[str, int]:
    values = {"ids": list(ids)}
    return {name: connection.execute(sql, values).rowcount for name, sql in AGAIN.items()}
