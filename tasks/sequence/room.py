"""The waiting room of a sequence: who asked to come in, the turn of each, and who was refused.

A request is written in the transaction of what causes it, and taken away in that of the enrollment
or the refusal: so it is answered exactly once.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from schedules.entry import Admission

# Sequences in which it is somebody's turn; a paused one keeps all of them waiting, one that drains
# keeps nobody.
OPEN_SQL: Final = """
SELECT q.key FROM sequence q
WHERE q.paused_at IS NULL AND EXISTS (
    SELECT 1 FROM entry_request r
    WHERE r.sequence_key = q.key AND r.look_at <= (SELECT clock_timestamp()))
UNION SELECT q.key FROM sequence q
WHERE q.paused_at IS NULL AND q.draining_since IS NOT NULL
  AND EXISTS (SELECT 1 FROM entry_request r WHERE r.sequence_key = q.key)
"""
OPEN = text(f"{OPEN_SQL} ORDER BY 1")
ASK = text("""
INSERT INTO entry_request (sequence_key, subscriber_id, cause, event_id, occurred_at)
SELECT r.sequence_key, r.subscriber_id, :cause, r.event_id, r.occurred_at
FROM unnest(CAST(:keys AS text[]), CAST(:subscribers AS bigint[]), CAST(:events AS bigint[]),
            CAST(:occurred AS timestamptz[])) WITH ORDINALITY
     AS r (sequence_key, subscriber_id, event_id, occurred_at, n)
JOIN subscriber s ON s.id = r.subscriber_id
ORDER BY r.n
RETURNING id
""")

TAKE = text("""
WITH held AS MATERIALIZED (
    SELECT r.* FROM entry_request r
    WHERE r.sequence_key = :key AND r.look_at <= (
        SELECT CASE WHEN CAST(:all AS boolean) THEN 'infinity' ELSE clock_timestamp() END)
    ORDER BY r.look_at, r.id LIMIT :n FOR UPDATE SKIP LOCKED)
SELECT r.id, r.subscriber_id, r.cause, r.event_id, r.occurred_at, r.asked_at, r.why,
    x.properties::text AS properties, s.stopped_reason AS stopped, coalesce(p.reason, (
        SELECT 'opted_out' FROM sequence q, consent c
        WHERE q.key = :key AND c.topic = q.topic AND c.subscriber_id = r.subscriber_id
          AND NOT c.opted_in AND :stream_class = 'marketing')) AS suppressed,
    h.entries, h.last_no, h.active_id, h.ended_at, h.triggered_at, u.queued IS TRUE AS queued,
    clock_timestamp() AS now
FROM held r
JOIN subscriber s ON s.id = r.subscriber_id
LEFT JOIN event x ON x.id = r.event_id AND x.occurred_at = r.occurred_at
LEFT JOIN LATERAL (
    SELECT y.reason FROM suppression y
    WHERE y.address_hmac = s.address_hmac AND y.scope IN ('all', :stream_class) LIMIT 1) p ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS entries, max(e.entry_no) AS last_no, max(e.id) FILTER (WHERE e.active) AS active_id,
        max(e.ended_at) AS ended_at, max(e.triggered_at) AS triggered_at
    FROM enrollment e WHERE e.sequence_key = :key AND e.subscriber_id = r.subscriber_id) h ON true
LEFT JOIN LATERAL (
    SELECT true AS queued FROM entry_request o
    WHERE o.subscriber_id = r.subscriber_id AND o.sequence_key = :key AND o.id < r.id
      AND o.why IN ('active', 'cooldown') LIMIT 1) u ON true
ORDER BY r.look_at, r.id
""")
GONE = text("DELETE FROM entry_request WHERE id = ANY(:ids)")
HOLD = text("""
UPDATE entry_request r SET look_at = h.look_at, why = h.why
FROM unnest(CAST(:ids AS bigint[]), CAST(:looks AS timestamptz[]), CAST(:whys AS text[]))
     AS h (id, look_at, why)
WHERE r.id = h.id
""")
REFUSE = text("""
WITH r AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:subscribers AS bigint[]), CAST(:keys AS text[]),
        CAST(:reasons AS text[]), CAST(:details AS text[])) WITH ORDINALITY
        AS r (subscriber_id, sequence_key, reason, detail, n)),
counted AS (
    INSERT INTO refusal_count AS c (sequence_key, reason, shard, n)
    SELECT sequence_key, reason, pg_backend_pid(), count(*) FROM r GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (sequence_key, reason, shard) DO UPDATE SET n = c.n + excluded.n)
INSERT INTO entry_refusal AS f (subscriber_id, sequence_key, reason, n, detail)
SELECT r.subscriber_id, r.sequence_key, r.reason, count(*),
    CAST((array_agg(r.detail ORDER BY r.n DESC))[1] AS jsonb)
FROM r GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (subscriber_id, sequence_key, reason) DO UPDATE
SET n = f.n + excluded.n, last_at = clock_timestamp(), detail = excluded.detail
""")

# Counted up to the bound alone, over the index of those who are in.
ACTIVE = text("""
SELECT count(*) FROM (
    SELECT 1 FROM enrollment WHERE sequence_key = :key AND active LIMIT :most) x
""")
PACE = text("""
SELECT clock_timestamp() AS now, (
    SELECT paced_until FROM entry_state WHERE sequence_key = :key) AS paced_until
""")
PACED = text("""
INSERT INTO entry_state AS s (sequence_key, paced_until) VALUES (:key, :until)
ON CONFLICT (sequence_key) DO UPDATE SET paced_until = excluded.paced_until
""")

SHARE: Final = dt.timedelta(minutes=1)
"""So much of its pace a sequence may use up at once."""

BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Refusal:
    """Somebody who did not come in; `detail` has the words of the sentence."""

    subscriber_id: int
    sequence_key: str
    reason: str
    detail: Mapping[str, str]


def ask(
    connection: Connection,
    cause: str,
    asking: Sequence[tuple[str, int, int | None, dt.datetime | None]],
) -> list[int]:
    """Write requests (sequence, subscriber, event and when it happened); returns their ids."""
    if not asking:
        return []
    keys, subscribers, events, occurred = (list(each) for each in zip(*asking, strict=True))
    values = {"keys": keys, "subscribers": subscribers, "events": events, "occurred": occurred}
    return list(connection.execute(ASK, values | {"cause": cause}).scalars())


def refuse(connection: Connection, refusals: Sequence[Refusal]) -> None:
    """Keep why people did not come in: a row a person, sequence and reason, however often."""
    if not refusals:
        return
    connection.execute(
        REFUSE,
        {
            "subscribers": [r.subscriber_id for r in refusals],
            "keys": [r.sequence_key for r in refusals],
            "reasons": [r.reason for r in refusals],
            "details": [json.dumps(dict(r.detail), ensure_ascii=False) for r in refusals],
        },
    )


def hold(connection: Connection, held: Sequence[tuple[int, dt.datetime, str | None]]) -> None:
    """Leave requests in the room: id, when they are looked at again, and what they wait for."""
    if held:
        ids, looks, whys = (list(each) for each in zip(*held, strict=True))
        connection.execute(HOLD, {"ids": ids, "looks": looks, "whys": whys})


class Places:
    """How many may come in now, by the `admission` of a sequence.

    The pace is that of GCRA (ITU-T I.371, the virtual scheduling algorithm): each entry takes up
    `interval` of time, and what was not used up of more than the last minute is lost.
    """

    def __init__(self, connection: Connection, key: str, admission: Admission | None) -> None:
        self.free = BATCH
        self._connection, self._key, self._admission = connection, key, admission
        self._paced: dt.datetime | None = None
        if admission is None:
            return
        if admission.max_active is not None:
            values = {"key": key, "most": admission.max_active}
            active = int(connection.execute(ACTIVE, values).scalar_one())
            self.free = min(self.free, admission.max_active - active)
        if (rate := admission.rate) is not None:
            row = connection.execute(PACE, {"key": key}).one()
            oldest = row.now - max(SHARE, rate.interval)
            # The first one ever comes at once.
            paced = row.now - rate.interval if row.paced_until is None else row.paced_until
            self._paced = max(paced, oldest)
            self.free = min(self.free, max((row.now - self._paced) // rate.interval, 0))

    def used(self, n: int) -> None:
        """Take note that so many came in."""
        if self._paced is not None and n and self._admission is not None and self._admission.rate:
            until = self._paced + n * self._admission.rate.interval
            self._connection.execute(PACED, {"key": self._key, "until": until})
