"""scheduled → working: a send worker takes what is due, and keeps its lease alive."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from tasks.moves.by_key import by_key


class Claimed(NamedTuple):
    """A message that this worker holds under `epoch`, with all that its mail is made of."""

    id: int
    epoch: int
    effect_key: bytes
    rfc_message_id: str
    subscriber_id: int
    enrollment_id: int | None
    address: str
    template: str
    template_version: bytes | None
    variables: dict[str, Any]
    frozen_at: dt.datetime
    crashes: int
    maybe_delivered: bool
    content_sha256: bytes | None
    body: bytes | None
    unfit: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """What one look brought; `cursor` is where the next one may begin."""

    rows: list[Claimed]
    cursor: dt.datetime | None


# What is due in a stream, oldest first. Compared with a subselect: `clock_timestamp()` bare is
# volatile and no index condition, and an empty look would walk every future row. The more crashes a
# row has seen the fewer of its kind are taken at once, so that the guilty one ends up alone while
# kills of a worker with a full window cost seconds, not minutes: fifty after two crashes, ten after
# three, then two, which a process holds until they are through. The last three tries before `poison` it makes
# quite alone, taken by a process that holds nothing and takes nothing else meanwhile: what then takes
# the process down is that row, and no crash condemns a row that was merely near. What was passed over
# keeps the cursor from moving on. Whether the process holds anything at all is asked where such a row
# is due, and of what it holds only rows that crashed are looked at: it may hold thousands. `unfit`:
# stopped, suppressed, opted out, expired, or accepted after all; `refuse` gives it the reason.
# `OFFSET 0`: asked for each row by its key; else Postgres may read all suppressions at once instead.
CLAIM = text("""
WITH due AS MATERIALIZED (
    SELECT m.id, m.run_at, m.crashes FROM message m
    WHERE m.stream = :stream
      AND m.run_at <= (SELECT clock_timestamp()) AND m.run_at >= CAST(:cursor AS timestamptz)
      AND EXISTS (SELECT 1 FROM stream t WHERE t.key = :stream AND t.paused_at IS NULL
                  AND t.region IS NOT DISTINCT FROM CAST(:region AS text))
      AND coalesce(m.sequence_key, '') <> ALL
          (ARRAY(SELECT q.key FROM sequence q WHERE q.paused_at IS NOT NULL))
    ORDER BY m.run_at LIMIT :n FOR UPDATE OF m SKIP LOCKED),
mine AS MATERIALIZED (
    SELECT coalesce(max(h.crashes), 0) AS worst FROM message h
    WHERE h.crashes > 0 AND h.watch_at IS NOT NULL AND h.owner = :owner),
worst AS MATERIALIZED (
    SELECT max(crashes) AS crashes FROM due WHERE crashes > 2 AND crashes < :alone),
alone AS MATERIALIZED (
    SELECT id FROM due
    WHERE CASE WHEN crashes >= :alone THEN NOT EXISTS (
        SELECT 1 FROM message h WHERE h.watch_at IS NOT NULL AND h.owner = :owner) END
    ORDER BY run_at LIMIT 1),
pick AS MATERIALIZED (
    SELECT id FROM alone
    UNION ALL
    SELECT p.id FROM (
        SELECT id FROM due WHERE crashes < 2
        UNION ALL
        (SELECT id FROM due WHERE crashes = 2 ORDER BY run_at LIMIT 50)
        UNION ALL
        (SELECT id FROM due
         WHERE crashes = (SELECT w.crashes FROM worst w) AND (SELECT worst FROM mine) <= 2
         ORDER BY run_at
         LIMIT (SELECT CASE WHEN w.crashes = 3 THEN 10 ELSE 2 END FROM worst w))) p
    WHERE NOT EXISTS (SELECT 1 FROM alone) AND (SELECT worst FROM mine) < :alone)
UPDATE message m SET
    state = 'working', epoch = m.epoch + 1, takes = m.takes + 1, owner = :owner,
    run_at = NULL, parked_from = NULL,
    watch_at = clock_timestamp() + make_interval(secs => :lease),
    frozen_at = coalesce(m.frozen_at, clock_timestamp()),
    template_version = coalesce(
        m.template_version, (SELECT t.sha256 FROM template t WHERE t.name = m.template)),
    variables = coalesce(m.variables, jsonb_build_object(
        'first_name', s.first_name, 'locale', s.locale, 'zone', s.zone,
        'attributes', s.attributes)
        || CASE WHEN m.words IS NULL THEN '{}' ELSE jsonb_build_object('words', m.words) END
        || CASE WHEN m.event IS NULL THEN '{}' ELSE jsonb_build_object('event', m.event) END)
FROM subscriber s
WHERE m.id = ANY(ARRAY(SELECT id FROM pick)) AND s.id = m.subscriber_id
RETURNING m.id, m.epoch, m.effect_key, m.rfc_message_id, m.subscriber_id, m.enrollment_id,
    s.address, m.template, m.template_version, m.variables, m.frozen_at, m.crashes,
    m.maybe_delivered, m.content_sha256,
    CASE WHEN m.maybe_delivered
         THEN (SELECT c.body FROM content c
               WHERE c.message_id = m.id AND c.sha256 = m.content_sha256) END AS body,
    (m.maybe_delivered AND EXISTS (
        SELECT 1 FROM attempt a
        WHERE a.message_id = m.id AND a.outcome = 'accepted' OFFSET 0)
     OR s.stopped_at IS NOT NULL OR m.expires_at <= clock_timestamp() OR EXISTS (
        SELECT 1 FROM suppression p
        WHERE p.address_hmac = s.address_hmac
          AND p.scope IN ('all', (SELECT t.class FROM stream t WHERE t.key = :stream)) OFFSET 0)
     OR ((SELECT t.class FROM stream t WHERE t.key = :stream) = 'marketing' AND EXISTS (
        SELECT 1 FROM sequence q, consent c
        WHERE q.key = m.sequence_key
          AND c.subscriber_id = s.id AND c.topic = q.topic AND NOT c.opted_in OFFSET 0))
    ) IS TRUE AS unfit,
    coalesce((SELECT min(run_at) FROM due WHERE id NOT IN (SELECT id FROM pick)),
             (SELECT max(run_at) FROM due)) AS next_look
""")

# In id order, and never waiting: a row that is locked is being moved, and needs no lease.
RENEW = text("""
WITH held AS MATERIALIZED (
    SELECT m.id FROM message m
    JOIN unnest(CAST(:ids AS bigint[]), CAST(:epochs AS integer[])) AS r (id, epoch)
      ON m.id = r.id AND m.epoch = r.epoch
    WHERE m.state = 'working'
    ORDER BY m.id FOR NO KEY UPDATE OF m SKIP LOCKED)
UPDATE message m SET watch_at = clock_timestamp() + make_interval(secs => :lease)
FROM held WHERE m.id = held.id
""")

KEEP_CONTENT = text("""
INSERT INTO content AS c (message_id, sha256, body)
SELECT r.id, r.sha256, r.body
FROM unnest(CAST(:ids AS bigint[]), CAST(:epochs AS integer[]), CAST(:hashes AS bytea[]),
            CAST(:bodies AS bytea[])) AS r (id, epoch, sha256, body)
JOIN message m ON m.id = r.id AND m.epoch = r.epoch
              AND m.state = 'working' AND NOT m.maybe_delivered
ON CONFLICT (message_id) DO UPDATE SET sha256 = excluded.sha256, body = excluded.body
""")


def claim(
    connection: Connection,
    *,
    stream: str,
    n: int,
    owner: str,
    lease: float,
    cursor: dt.datetime | None = None,
    region: str | None = None,
    alone: int = 5,
) -> Claim:
    """Take up to `n` due messages of a stream, each under a new epoch and a lease of `lease` s.

    Args:
        connection: inside a transaction; the rows are ours when it commits.
        stream: whose queue.
        n: how many at most.
        owner: the worker's incarnation, as its journal's header has it.
        lease: seconds.
        cursor: look only at rows due at or after it; None looks at all. A transaction that somebody
            holds open makes every look from the beginning walk the entries of rows long gone.
        region: of this worker; a stream of another one has nothing for it.
        alone: a row with so many crashes is taken alone (`DeliverySettings.alone`).
    """
    by_key(connection)
    rows = connection.execute(
        CLAIM,
        {
            "stream": stream,
            "n": n,
            "owner": owner,
            "lease": lease,
            "cursor": cursor or "-infinity",
            "region": region,
            "alone": alone,
        },
    ).all()
    return Claim(
        [Claimed._make(row[:-1]) for row in rows],
        max((row.next_look for row in rows), default=None),
    )


def renew(connection: Connection, held: list[tuple[int, int]], lease: float) -> int:
    """Extend the lease of working rows, given as (id, epoch); returns how many were still ours."""
    return connection.execute(
        RENEW, {"ids": [i for i, _ in held], "epochs": [e for _, e in held], "lease": lease}
    ).rowcount


def keep_content(connection: Connection, mails: list[tuple[int, int, bytes, bytes]]) -> None:
    """Store (id, epoch, sha256, body) of working mails that their stream may have to send again."""
    connection.execute(
        KEEP_CONTENT,
        {
            "ids": [mail[0] for mail in mails],
            "epochs": [mail[1] for mail in mails],
            "hashes": [mail[2] for mail in mails],
            "bodies": [mail[3] for mail in mails],
        },
    )
