"""Confirmed opt-in: a sign-up for a topic that asks for it is pending until its reader says yes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import psycopg
from sqlalchemy import Connection

from tasks.audience.candidate import Candidate
from tasks.audience.consent import BATCH
from tasks.audience.one_event import record_event
from tasks.moves import opt_in

CONFIRMED: Final = "topic.confirmed"
"""Event of a reader who confirmed; its properties name `topic` and `message`."""

# Who opted in is not asked, nor who took it back by their own word. A sign-up that is said again asks
# again a day later at the soonest, three times in all, and then once in 90 days.
RECORD = f"""
    INSERT INTO opt_in AS o (subscriber_id, topic, source)
    SELECT s.id, f.topic, %s
    FROM unnest(%s::bytea[], %s::text[]) AS f (address_hmac, topic)
    JOIN subscriber s USING (address_hmac)
    JOIN topic t ON t.key = f.topic AND t.confirm
    LEFT JOIN consent old ON old.subscriber_id = s.id AND old.topic = f.topic
    WHERE s.stopped_at IS NULL
      AND (old.opted_in IS NULL OR NOT old.opted_in AND old.source LIKE 'import:%%')
    ORDER BY s.id, f.topic
    ON CONFLICT (subscriber_id, topic) DO UPDATE
    SET source = excluded.source, said_at = excluded.said_at, confirmed_at = NULL, page = NULL,
        wanted = o.wanted OR coalesce(
            o.asked_at < clock_timestamp() - CASE WHEN o.asks < {opt_in.MOST}
                THEN interval '1 day' ELSE interval '90 days' END, true)
"""


def record_pending(
    connection: psycopg.Connection[Any], candidates: Sequence[Candidate], source: str
) -> int:
    """Write the sign-ups for topics that ask for a confirmation, a transaction every 500.

    `record_consents` leaves these alone; `tasks.moves.opt_in.Asker` makes the mails that ask.

    Returns:
        How many are pending now.
    """
    wanted = iter(
        (c.address_hmac, topic) for c in candidates for topic, yes in c.topics.items() if yes
    )
    pending = 0
    while batch := list(islice(wanted, BATCH)):
        hmacs, topics = (list(column) for column in zip(*batch, strict=True))
        with connection.transaction():
            pending += connection.execute(RECORD, (f"import:{source}", hmacs, topics)).rowcount
    return pending


def confirm(connection: Connection, message_id: int, page: str) -> bool:
    """The reader of the mail that asked says yes; True: that is new."""
    done = opt_in.confirm(connection, message_id, page)
    if done is None:
        return False
    subscriber_id, topic = done
    record_event(
        connection,
        subscriber_id,
        CONFIRMED,
        properties={"topic": topic, "message": message_id},
        source="edge",
        source_id=f"confirmed:{message_id}",
    )
    return True
