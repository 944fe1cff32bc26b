"""What subscribers agreed to, as a file tells it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import psycopg

from tasks.audience.candidate import Candidate

# A trigger takes every subscriber's lock for a change of consent, and the lock table is finite.
BATCH = 500

ENSURE_TOPICS = """
    INSERT INTO topic (key, title) SELECT key, key FROM unnest(%s::text[]) AS key
    ON CONFLICT (key) DO NOTHING
"""

# A file may take consent away. It gives consent back only where a file took it: an unsubscribe is
# the subscriber's own word, and a list from last month knows nothing of it. Of a topic that asks for a
# confirmation it gives none (`tasks.audience.confirming`).
RECORD = """
    INSERT INTO consent AS c (subscriber_id, topic, opted_in, source)
    SELECT s.id, f.topic, f.opted_in, %s
    FROM unnest(%s::bytea[], %s::text[], %s::boolean[]) AS f (address_hmac, topic, opted_in)
    JOIN subscriber s USING (address_hmac)
    JOIN topic t ON t.key = f.topic
    LEFT JOIN consent old ON old.subscriber_id = s.id AND old.topic = f.topic
    WHERE f.opted_in IS DISTINCT FROM old.opted_in AND NOT (f.opted_in AND t.confirm)
      AND (NOT f.opted_in OR old.source IS NULL OR old.source LIKE 'import:%%')
    ORDER BY s.id, f.topic
    ON CONFLICT (subscriber_id, topic) DO UPDATE
    SET opted_in = excluded.opted_in, source = excluded.source
    WHERE NOT excluded.opted_in OR c.source LIKE 'import:%%'
"""

# The same, before anything is there: `comes` tells whether whoever is not known yet would be.
FORESEE = """
    SELECT count(*)
    FROM unnest(%s::bytea[], %s::text[], %s::boolean[], %s::boolean[])
        AS f (address_hmac, topic, opted_in, comes)
    LEFT JOIN subscriber s USING (address_hmac)
    LEFT JOIN topic t ON t.key = f.topic
    LEFT JOIN consent old ON old.subscriber_id = s.id AND old.topic = f.topic
    WHERE f.opted_in IS DISTINCT FROM old.opted_in AND NOT (f.opted_in AND t.confirm IS TRUE)
      AND (s.id IS NOT NULL OR f.comes)
      AND (NOT f.opted_in OR old.source IS NULL OR old.source LIKE 'import:%%')
"""


def foresee_consents(
    connection: psycopg.Connection[Any], candidates: Sequence[Candidate], taken: set[int]
) -> int:
    """How many answers `record_consents` would write; `taken` are lines that will not come in."""
    answers = [
        (c.address_hmac, topic, opted_in, c.line not in taken)
        for c in candidates
        for topic, opted_in in c.topics.items()
    ]
    if not answers:
        return 0
    row = connection.execute(FORESEE, [list(column) for column in zip(*answers, strict=True)])
    return int(row.fetchall()[0][0])


def record_consents(
    connection: psycopg.Connection[Any], candidates: Sequence[Candidate], source: str
) -> int:
    """Write what the candidates say on topics, a transaction of its own every 500 answers.

    Topics that do not exist are made, their key as title.

    Returns:
        How many answers were new.
    """
    answers = iter(
        (c.address_hmac, topic, opted_in)
        for c in candidates
        for topic, opted_in in c.topics.items()
    )
    changed = 0
    while batch := list(islice(answers, BATCH)):
        hmacs, topics, opted = (list(column) for column in zip(*batch, strict=True))
        with connection.transaction():
            connection.execute(ENSURE_TOPICS, (sorted(set(topics)),))
            cursor = connection.execute(RECORD, (f"import:{source}", hmacs, topics, opted))
            changed += cursor.rowcount
    return changed
