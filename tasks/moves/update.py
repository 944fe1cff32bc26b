"""What a sequence writes to its subscribers: attributes, and topics in or out."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class SubscriberUpdate:
    """Attributes to set, and topics to opt in to (true) or out of, by a sequence."""

    subscriber_id: int
    sequence_key: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    topics: Mapping[str, bool] = field(default_factory=dict)


# A planner holds enrollments, and subscribers come before them: it may try, never wait.
HOLD_ROWS = text("""
SELECT s.id FROM subscriber s WHERE s.id = ANY(:ids) ORDER BY s.id
FOR NO KEY UPDATE SKIP LOCKED
""")
HOLD_STOPS = text("""
SELECT r.id FROM unnest(CAST(:ids AS bigint[])) AS r (id) WHERE pg_try_advisory_xact_lock(r.id)
""")

ATTRIBUTES = text("""
UPDATE subscriber s SET attributes = s.attributes || CAST(r.attributes AS jsonb),
    updated_at = clock_timestamp()
FROM unnest(CAST(:ids AS bigint[]), CAST(:attributes AS text[])) AS r (id, attributes)
WHERE s.id = r.id
""")

# A sequence may opt out. It opts in only who never answered, or whom a file or a sequence opted
# out: an unsubscribe is the subscriber's own word.
TOPICS = text("""
INSERT INTO consent AS c (subscriber_id, topic, opted_in, source)
SELECT r.subscriber_id, t.key, r.opted_in, 'sequence:' || r.sequence_key
FROM unnest(CAST(:ids AS bigint[]), CAST(:keys AS text[]), CAST(:topics AS text[]),
            CAST(:opted AS boolean[])) AS r (subscriber_id, sequence_key, topic, opted_in)
JOIN topic t ON t.key = r.topic
LEFT JOIN consent old ON old.subscriber_id = r.subscriber_id AND old.topic = t.key
WHERE r.opted_in IS DISTINCT FROM old.opted_in
ORDER BY r.subscriber_id, t.key
ON CONFLICT (subscriber_id, topic) DO UPDATE
SET opted_in = excluded.opted_in, source = excluded.source
WHERE NOT excluded.opted_in OR c.source LIKE 'import:%' OR c.source LIKE 'sequence:%'
""")


def hold(connection: Connection, rows: Collection[int], stops: Collection[int]) -> set[int]:
    """Try to lock subscribers for an update; whoever somebody else holds is not waited for.

    Args:
        connection: inside a transaction, which may hold enrollments already.
        rows: at most 500 ids, whose attributes or topics may change.
        stops: those of them whose topics may: under the lock that ARM takes too.

    Returns:
        The ids that are held, until the transaction ends.
    """
    if not rows:
        return set()
    held = set(connection.execute(HOLD_ROWS, {"ids": sorted(rows)}).scalars())
    wanted = sorted(held & set(stops))
    if wanted:
        got = set(connection.execute(HOLD_STOPS, {"ids": wanted}).scalars())
        held -= set(wanted) - got
    return held


def write_updates(connection: Connection, updates: Sequence[SubscriberUpdate]) -> None:
    """Write updates of subscribers that `hold` has locked, each at most once.

    A topic that is there no more is left out.
    """
    changed = [each for each in updates if each.attributes]
    if changed:
        connection.execute(
            ATTRIBUTES,
            {
                "ids": [each.subscriber_id for each in changed],
                "attributes": [json.dumps(dict(each.attributes)) for each in changed],
            },
        )
    answers = [(each, *answer) for each in updates for answer in each.topics.items()]
    if answers:
        connection.execute(
            TOPICS,
            {
                "ids": [each.subscriber_id for each, _, _ in answers],
                "keys": [each.sequence_key for each, _, _ in answers],
                "topics": [topic for _, topic, _ in answers],
                "opted": [opted_in for _, _, opted_in in answers],
            },
        )
