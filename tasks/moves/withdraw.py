"""A reader's own word on marketing mail: no more of it, none of a topic, or none until a date.

Unlike a stop (`tasks.moves.stop`) it leaves receipts and the like alone. The subscriber's lock comes
first, so that no ARM that holds it is overtaken: what was armed before goes out, nothing after.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from tasks.moves.statement import move

LOCK = text("SELECT pg_advisory_xact_lock(CAST(:id AS bigint))")

# Who said so before, or is dead for another reason, keeps that one; a word of theirs is stronger than
# `unreachable`, which a good delivery takes back.
SUPPRESS = text("""
INSERT INTO suppression (address_hmac, scope, reason)
SELECT s.address_hmac, 'marketing', :reason FROM subscriber s WHERE s.id = :id
ON CONFLICT (address_hmac, scope) DO UPDATE SET reason = excluded.reason
WHERE suppression.reason = 'unreachable' AND excluded.reason <> 'unreachable'
RETURNING reason
""")
ANSWER = text("""
INSERT INTO consent AS c (subscriber_id, topic, opted_in, source)
SELECT :id, t.key, a.opted_in, :source
FROM unnest(CAST(:topics AS text[]), CAST(:answers AS boolean[])) AS a (topic, opted_in)
JOIN topic t ON t.key = a.topic ORDER BY t.key
ON CONFLICT (subscriber_id, topic) DO UPDATE
SET opted_in = excluded.opted_in, source = excluded.source
WHERE c.opted_in IS DISTINCT FROM excluded.opted_in
RETURNING c.topic
""")

# Marketing sequences of a subscriber; `topics` NULL: all of them.
_OF = """EXISTS (
        SELECT 1 FROM sequence q JOIN stream t ON t.key = q.stream
        WHERE q.key = {0}.sequence_key AND t.class = 'marketing'
          AND (CAST(:topics AS text[]) IS NULL OR q.topic = ANY(CAST(:topics AS text[]))))"""
END_ENROLLMENTS = text(f"""
WITH held AS MATERIALIZED (
    SELECT e.id FROM enrollment e
    WHERE e.subscriber_id = :id AND e.active AND {_OF.format("e")}
    ORDER BY e.id FOR NO KEY UPDATE OF e),
ended AS (
    UPDATE enrollment e SET active = false, ended_at = clock_timestamp(), end_reason = :reason,
        due_at = NULL, parked_from = NULL
    FROM held WHERE e.id = held.id AND e.active
    RETURNING e.id, e.subscriber_id, e.sequence_key, e.step_id),
logged AS (
    INSERT INTO decision (subscriber_id, sequence_key, enrollment_id, step_id, kind, reason, detail)
    SELECT subscriber_id, sequence_key, id, step_id, 'exited', :reason,
           jsonb_build_object('because', CAST(:because AS text))
    FROM ended)
SELECT count(*) FROM ended
""")
SUPPRESS_QUEUED = text(
    move(
        f"""
    SELECT m.id, m.enrollment_id FROM message m
    WHERE m.subscriber_id = :id AND m.state IN ('scheduled', 'working')
      AND ({_OF.format("m")} OR (CAST(:topics AS text[]) IS NULL AND m.sequence_key IS NULL AND EXISTS (
           SELECT 1 FROM stream t WHERE t.key = m.stream AND t.class = 'marketing')))""",
        "m.state IN ('scheduled', 'working')",
        """
        state = 'suppressed', owner = NULL, watch_at = NULL, run_at = NULL, parked_from = NULL,
        terminal_at = clock_timestamp(), reason = :reason""",
    )
)

SNOOZE = text("""
INSERT INTO snooze (subscriber_id, until, source) VALUES (:id, :until, :source)
ON CONFLICT (subscriber_id) DO UPDATE
SET until = excluded.until, source = excluded.source, at = clock_timestamp()
""")
WAKE = text("DELETE FROM snooze WHERE subscriber_id = :id")
# What is queued waits as long: its window opens at the end, and it lives so much longer. A mail in
# hand is refused by ARM, which looks at the window, and comes back to the queue.
POSTPONE = text("""
WITH held AS MATERIALIZED (
    SELECT m.id, m.allowed * tstzmultirange(tstzrange(CAST(:until AS timestamptz), NULL)) AS later
    FROM message m JOIN stream t ON t.key = m.stream
    WHERE m.subscriber_id = :id AND m.state IN ('scheduled', 'working') AND t.class = 'marketing'
    ORDER BY m.id FOR NO KEY UPDATE OF m)
UPDATE message m SET
    allowed = CASE WHEN isempty(h.later)
        THEN tstzmultirange(tstzrange(CAST(:until AS timestamptz), NULL)) ELSE h.later END,
    run_at = CASE WHEN m.state = 'scheduled' AND m.run_at < 'infinity' THEN greatest(
        m.run_at, CASE WHEN isempty(h.later) THEN CAST(:until AS timestamptz) ELSE lower(h.later) END)
        ELSE m.run_at END,
    expires_at = m.expires_at + (CAST(:until AS timestamptz) - clock_timestamp())
FROM held h WHERE m.id = h.id
""")
# Looked at again at once: the gate that held them sees that nothing holds them any more.
HURRY = text("""
WITH held AS MATERIALIZED (
    SELECT e.id FROM enrollment e
    WHERE e.subscriber_id = :id AND e.active AND e.wait_rule ->> 'by' = 'snooze'
    ORDER BY e.id FOR NO KEY UPDATE OF e)
UPDATE enrollment e SET due_at = clock_timestamp()
FROM held WHERE e.id = held.id AND e.due_at < 'infinity'
""")

NOTE = text("""
INSERT INTO decision (subscriber_id, sequence_key, enrollment_id, step_id, kind, reason, detail)
SELECT m.subscriber_id, m.sequence_key, m.enrollment_id, m.step_id, :kind, :reason,
       jsonb_build_object('message', m.id, 'how', CAST(:how AS text), 'what', CAST(:what AS text))
FROM message m WHERE m.id = :message
""")


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What a word ended; `new`: it was not said before."""

    new: bool
    enrollments: int = 0
    messages: int = 0


def lock(connection: Connection, subscriber_id: int) -> None:
    """Take the subscriber's lock, before anything of theirs is read."""
    connection.execute(LOCK, {"id": subscriber_id})


def leave_marketing(
    connection: Connection, subscriber_id: int, reason: str, because: str
) -> Withdrawn:
    """No marketing mail any more: the address is suppressed, enrollments end, what is queued too.

    Args:
        connection: inside a transaction.
        subscriber_id: who.
        reason: in a word, of the suppression and of all that ends by it.
        because: the same for a person who asks why.
    """
    lock(connection, subscriber_id)
    said = connection.execute(SUPPRESS, {"id": subscriber_id, "reason": reason}).one_or_none()
    return _end(connection, subscriber_id, None, reason, because, new=said is not None)


def answer_topics(
    connection: Connection,
    subscriber_id: int,
    answers: dict[str, bool],
    source: str,
    because: str,
) -> Withdrawn:
    """Write a subscriber's own answers on topics; what is under way of those they left ends."""
    lock(connection, subscriber_id)
    topics = sorted(answers)
    values = {"id": subscriber_id, "topics": topics, "answers": [answers[key] for key in topics]}
    changed = connection.execute(ANSWER, {**values, "source": source}).scalars().all()
    left = sorted(key for key in topics if not answers[key])
    if not left:
        return Withdrawn(bool(changed))
    return _end(connection, subscriber_id, left, "opted_out", because, new=bool(changed))


def snooze(
    connection: Connection, subscriber_id: int, until: dt.datetime | None, source: str
) -> None:
    """No marketing mail until then; None: from now on again. Nothing ends, all of it waits.

    A mail that the planner hands over in the very moment may still go: this is no stop.
    """
    lock(connection, subscriber_id)
    if until is None:
        connection.execute(WAKE, {"id": subscriber_id})
        connection.execute(HURRY, {"id": subscriber_id})
        return
    values = {"id": subscriber_id, "until": until}
    connection.execute(SNOOZE, {**values, "source": source})
    connection.execute(POSTPONE, values)


def note(
    connection: Connection, message_id: int, kind: str, reason: str, *, how: str, what: str
) -> None:
    """Write down for `explain` by which mail, and how, a reader said it."""
    values = {"message": message_id, "kind": kind, "reason": reason, "how": how, "what": what}
    connection.execute(NOTE, values)


def _end(
    connection: Connection,
    subscriber_id: int,
    topics: Sequence[str] | None,
    reason: str,
    because: str,
    *,
    new: bool,
) -> Withdrawn:
    values = {
        "id": subscriber_id,
        "topics": None if topics is None else list(topics),
        "reason": reason,
    }
    ended = connection.execute(END_ENROLLMENTS, {**values, "because": because}).scalar_one()
    suppressed = connection.execute(SUPPRESS_QUEUED, values).scalar_one()
    return Withdrawn(new, int(ended), int(suppressed))
