"""Batches of texts, as rows: made with what their texts may cost, held under a lease, noted once sent.

A text is in one batch, once; nobody else works on it meanwhile. Every move of a batch is fenced by its
epoch. How texts leave it stands in `batch_texts`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

LOCK_SPACE: Final = 0x62617463  # "batc": who makes batches, makes them alone
UNTIL_AGAIN: Final = "1 hour"
"""For so long after a server took no batch none is made for its model."""

_FIT = """
    w.state = 'wanted' AND w.batch_id IS NULL AND w.tries = 0 AND w.lease_until IS NULL
    AND w.retry_at <= (SELECT clock_timestamp())
    AND w.needed_at > (SELECT clock_timestamp() + make_interval(secs => :lead))
    AND EXISTS (SELECT FROM asked a WHERE a.key = w.key)
"""
ALONE = text("SELECT pg_try_advisory_xact_lock(:space, 0)")
# Models of which enough texts have come together, the oldest of them long enough ago.
GATHERED = text(f"""
SELECT w.model FROM wording w
WHERE {_FIT}
  AND NOT EXISTS (SELECT FROM word_batch b WHERE b.model = w.model AND b.state = 'ended'
    AND b.server_id IS NULL AND b.ended_at > clock_timestamp() - interval '{UNTIL_AGAIN}')
GROUP BY 1
HAVING count(*) >= :least
   AND min(w.created_at) <= clock_timestamp() - make_interval(secs => :gather)
""")
CHOOSE = text(f"""
SELECT w.key, w.sequence_key, w.told, w.prompt_sha256 FROM wording w
WHERE {_FIT} AND w.model = :model
ORDER BY w.needed_at, w.key LIMIT :most FOR UPDATE OF w SKIP LOCKED
""")
SOURCES = text(
    "SELECT s.sha256, s.source FROM prompt_source s WHERE s.sha256 = ANY(CAST(:hashes AS bytea[]))"
)
MAKE = text("INSERT INTO word_batch (id, model, texts) VALUES (:id, :model, :texts)")
# Nobody else takes a text up meanwhile: it is never time to.
PUT_IN = text("""
UPDATE wording w SET batch_id = :id, in_batch = true, epoch = w.epoch + 1, why = 'in_batch',
    retry_at = 'infinity',
    reserved = r.amount, reserved_on = r.day
FROM unnest(CAST(:keys AS bytea[]), CAST(:amounts AS bigint[]), CAST(:days AS date[]))
    AS r (key, amount, day)
WHERE w.key = r.key
""")

TAKE = text("""
UPDATE word_batch b SET epoch = b.epoch + 1,
    lease_until = clock_timestamp() + make_interval(secs => :lease)
WHERE b.id = (
    SELECT x.id FROM word_batch x
    WHERE x.state <> 'ended' AND x.look_at <= (SELECT clock_timestamp())
      AND (x.lease_until IS NULL OR x.lease_until <= (SELECT clock_timestamp()))
    ORDER BY x.look_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING b.id, b.epoch, b.model, b.state, b.file_id, b.server_id, b.status, b.tries, b.made_at
""")
# What is not given stays; a later look gives the lease back.
NOTE = text("""
UPDATE word_batch SET
    state = coalesce(CAST(:state AS text), state), file_id = coalesce(:file_id, file_id),
    server_id = coalesce(:server_id, server_id), status = coalesce(:status, status),
    why = coalesce(:why, why),
    sent_at = CASE WHEN CAST(:state AS text) = 'sent' THEN clock_timestamp() ELSE sent_at END,
    ended_at = CASE WHEN CAST(:state AS text) = 'ended' THEN clock_timestamp() END,
    tries = CASE WHEN CAST(:again AS float8) IS NULL THEN tries ELSE tries + :tried END,
    look_at = CASE WHEN CAST(:again AS float8) IS NULL THEN look_at
                   ELSE clock_timestamp() + make_interval(secs => :again) END,
    lease_until = CASE WHEN CAST(:again AS float8) IS NULL AND CAST(:state AS text) IS DISTINCT FROM 'ended'
                       THEN clock_timestamp() + make_interval(secs => :lease) END
WHERE id = :id AND epoch = :epoch AND state <> 'ended' RETURNING true
""")
SERVER = text("SELECT b.server_id FROM word_batch b WHERE b.id = :id")
TEXTS = text("""
SELECT w.key, w.told, w.prompt_sha256, w.tries FROM wording w
WHERE w.batch_id = :id AND w.in_batch ORDER BY w.needed_at, w.key
""")


@dataclass(frozen=True, slots=True)
class Held:
    """A batch that this worker holds; `tries` were made to send it, and came to nothing."""

    id: UUID
    epoch: int
    model: str
    state: str
    file_id: str | None
    server_id: str | None
    status: str | None
    tries: int
    made_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a batch; `source` is its prompt's."""

    key: bytes
    told: Mapping[str, str | None]
    source: Mapping[str, Any]
    tries: int = 0
    sequence_key: str = ""


def gathered(connection: Connection, least: int, lead: float, gather: float) -> list[str]:
    """The models for which a batch is to be made; none while somebody else makes one."""
    if not connection.execute(ALONE, {"space": LOCK_SPACE}).scalar_one():
        return []
    values = {"least": least, "lead": lead, "gather": gather}
    return list(connection.execute(GATHERED, values).scalars())


def choose(connection: Connection, model: str, lead: float, most: int) -> list[Text]:
    """Texts for a batch, locked; those that are needed first before others."""
    rows = connection.execute(CHOOSE, {"model": model, "lead": lead, "most": most}).all()
    sources = _sources(connection, rows)
    return [
        Text(bytes(row.key), row.told, sources[bytes(row.prompt_sha256)], 0, row.sequence_key)
        for row in rows
    ]


def make(
    connection: Connection, ours: UUID, model: str, amounts: Mapping[bytes, tuple[int, dt.date]]
) -> None:
    """Write a batch down with its texts; `amounts`: what was set aside for each, and for which day."""
    connection.execute(MAKE, {"id": ours, "model": model, "texts": len(amounts)})
    values = {
        "id": ours,
        "keys": list(amounts),
        "amounts": [amount for amount, _ in amounts.values()],
        "days": [day for _, day in amounts.values()],
    }
    connection.execute(PUT_IN, values)


def take(connection: Connection, lease: float) -> Held | None:
    """Take the batch that is to be looked at next, if any is."""
    row = connection.execute(TAKE, {"lease": lease}).one_or_none()
    return Held(*row) if row is not None else None


def note(
    connection: Connection,
    held: Held,
    lease: float,
    *,
    state: str | None = None,
    file_id: str | None = None,
    server_id: str | None = None,
    status: str | None = None,
    why: str | None = None,
    again: float | None = None,
    tried: int = 0,
) -> bool:
    """Write down what is known; `again`: give it back, to be looked at in so many seconds.

    Returns:
        Whether it is still ours.
    """
    values = {
        "state": state, "file_id": file_id, "server_id": server_id, "status": status, "why": why,
        "again": again, "tried": tried, "lease": lease, "id": held.id, "epoch": held.epoch,
    }  # fmt: skip
    return connection.execute(NOTE, values).scalar_one_or_none() is not None


def server_of(connection: Connection, held: Held) -> str | None:
    """What its server calls a batch, as somebody noted it."""
    found: str | None = connection.execute(SERVER, {"id": held.id}).scalar_one()
    return found


def texts(connection: Connection, held: Held) -> list[Text]:
    """The texts that are in a batch now, in the order of keys."""
    rows = connection.execute(TEXTS, {"id": held.id}).all()
    sources = _sources(connection, rows)
    return [
        Text(bytes(row.key), row.told, sources[bytes(row.prompt_sha256)], row.tries) for row in rows
    ]


def _sources(connection: Connection, rows: Sequence[Any]) -> dict[bytes, Mapping[str, Any]]:
    hashes = list({bytes(row.prompt_sha256) for row in rows})
    found = connection.execute(SOURCES, {"hashes": hashes})
    return {bytes(row.sha256): row.source for row in found}
