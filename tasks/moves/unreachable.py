"""Addresses that nothing reaches: dead at once, or given up after three of five mails that came back.

Dead (`hard_bounce`) is for every mail; `unreachable` for marketing, so that receipts go on, and one that
arrives takes it back. The subscriber's lock comes first, as for every stop, then all enrollments that are
touched, in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, text

from tasks.moves.stop import END_ENROLLMENTS, LOCK, SUPPRESS_QUEUED

DEAD: Final = "hard_bounce"
UNREACHABLE: Final = "unreachable"
SOFT_OF: Final = (3, 5)
"""So many of the last so many mails that came back, for now, are enough."""

HOLD = text("""
SELECT e.id FROM enrollment e
WHERE (e.subscriber_id = ANY(CAST(:subscribers AS bigint[])) AND e.active)
   OR e.id = ANY(ARRAY(SELECT m.enrollment_id FROM message m
                       WHERE m.id = ANY(CAST(:messages AS bigint[]))))
ORDER BY e.id FOR NO KEY UPDATE
""")
SUPPRESS = text("""
INSERT INTO suppression (address_hmac, scope, reason)
SELECT s.address_hmac, 'all', :reason FROM subscriber s WHERE s.id = :id
ON CONFLICT (address_hmac, scope) DO NOTHING
""")

# The last mails that ended by reaching somebody, or nobody, since the last one that is known to have
# arrived: by a provider's word, or because a person opened it or followed a link of it.
SOFT = text("""
SELECT count(*) FILTER (WHERE x.soft) AS soft FROM (
    SELECT EXISTS (SELECT FROM feedback f
        WHERE f.message_id = m.id AND f.kind = 'bounced' AND f.class = 'soft') AS soft
    FROM message m
    WHERE m.subscriber_id = :id AND m.state IN ('sent', 'sent_assumed', 'failed')
      AND m.terminal_at > greatest(
        (SELECT max(y.terminal_at) FROM feedback f JOIN message y ON y.id = f.message_id
         WHERE f.subscriber_id = :id AND f.kind = 'delivered' AND NOT EXISTS (
             SELECT FROM feedback b WHERE b.message_id = f.message_id AND b.kind = 'bounced')),
        (SELECT max(e.occurred_at) FROM event e
         WHERE e.subscriber_id = :id AND e.name IN ('email.clicked', 'email.opened')
           AND NOT e.properties ? 'machine'),
        '-infinity')
    ORDER BY m.terminal_at DESC LIMIT :of) x
""")
REACH = text("""
DELETE FROM suppression p USING subscriber s
WHERE s.id = ANY(CAST(:ids AS bigint[])) AND p.address_hmac = s.address_hmac
  AND p.scope = 'marketing' AND p.reason = 'unreachable'
""")


def hold(connection: Connection, subscribers: Sequence[int], messages: Sequence[int]) -> None:
    """Take the locks that what follows needs: of subscribers, then of enrollments."""
    connection.execute(LOCK, {"ids": sorted(set(subscribers))})
    values = {"subscribers": sorted(set(subscribers)), "messages": sorted(set(messages))}
    connection.execute(HOLD, values)


def bury(connection: Connection, subscriber_id: int) -> None:
    """The address of a subscriber is dead: nothing goes to it, and what was under way ends."""
    connection.execute(SUPPRESS, {"id": subscriber_id, "reason": DEAD})
    values = {"ids": [subscriber_id], "reason": DEAD}
    connection.execute(END_ENROLLMENTS, values)
    connection.execute(SUPPRESS_QUEUED, values)


def soft_bounces(connection: Connection, subscriber_id: int) -> int:
    """How many of the last mails to a subscriber came back for now; `SOFT_OF` says of how many."""
    values = {"id": subscriber_id, "of": SOFT_OF[1]}
    return int(connection.execute(SOFT, values).scalar_one())


def reached(connection: Connection, subscribers: Sequence[int]) -> bool:
    """Take `unreachable` back; whether it was there. What a subscriber said themselves stays."""
    return connection.execute(REACH, {"ids": list(subscribers)}).rowcount > 0
