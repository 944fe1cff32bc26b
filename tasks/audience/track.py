"""Events from producers: validated, recorded once, and never dropped in silence.

Promised: once a worker holds the task, each of its events ends as a row of `event`, as known
already (its source and source_id were recorded before), or as a row of `event_refused` with the
reason, whatever dies and whenever. The task is acknowledged after the commit; redelivered, it finds
its events known. What a killed worker held comes back when the broker gives it to another one, which
for Redis is after the longest task of the fleet (an hour).

Not promised: the task that a worker is killed over in the instant between taking it and noting that it
holds it (kombu takes with BRPOP, and notes it after), what the broker itself forgets (Redis without
an append-only file, or a failover to a replica that is behind), and a task that its sender let
expire. A producer that must know records with a transaction of its own, or sends again: sending
twice costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

import structlog
from sqlalchemy import Connection, text

from models.session import Database
from tasks.audience.event_row import BadEvent, Found, read_object
from tasks.audience.events import UNKNOWN
from tasks.audience.staging import encode

MOST: Final = 1_000
"""Events of one task."""

log = structlog.get_logger()

# As of a file's rows: whoever puts the key in records the event. Without a time it was now.
RECORD = text("""
WITH given AS (
    SELECT * FROM unnest(CAST(:lines AS integer[]), CAST(:hmacs AS bytea[]),
        CAST(:externals AS text[]), CAST(:names AS text[]), CAST(:ats AS timestamptz[]),
        CAST(:source_ids AS text[]), CAST(:properties AS text[]))
        AS r (line, address_hmac, external_id, name, at, source_id, properties)),
found AS MATERIALIZED (
    SELECT g.*, CASE WHEN g.address_hmac IS NULL
        THEN (SELECT s.id FROM subscriber s WHERE s.external_id = g.external_id)
        ELSE (SELECT s.id FROM subscriber s WHERE s.address_hmac = g.address_hmac)
        END AS subscriber_id
    FROM given g),
fresh AS (
    INSERT INTO event_source (source, source_id)
    SELECT :source, f.source_id FROM found f WHERE f.subscriber_id IS NOT NULL ORDER BY f.source_id
    ON CONFLICT DO NOTHING RETURNING source_id),
recorded AS (
    INSERT INTO event (subscriber_id, name, occurred_at, properties)
    SELECT f.subscriber_id, f.name, coalesce(f.at, clock_timestamp()), CAST(f.properties AS jsonb)
    FROM found f JOIN fresh USING (source_id) RETURNING 1)
SELECT (SELECT count(*) FROM recorded) AS new,
    array_agg(f.line) FILTER (WHERE f.subscriber_id IS NULL) AS unknown
FROM found f
""")

# The same refused event of a task that comes again, or is sent again, is the same row.
REFUSE = text("""
INSERT INTO event_refused (source, payload, digest, reason)
VALUES (:source, CAST(:payload AS jsonb), :digest, :reason)
ON CONFLICT (digest) DO UPDATE SET reason = excluded.reason, at = clock_timestamp()
""")
REFUSED = text("""
SELECT id, source, payload, reason, at FROM event_refused WHERE id > :after ORDER BY id LIMIT :n
""")
FORGET = text("DELETE FROM event_refused WHERE id = ANY(CAST(:ids AS bigint[]))")


def record(database: Database, secret: bytes, payload: Mapping[str, Any]) -> dict[str, int]:
    """Record the events of a payload in one transaction; see the module for what is promised.

    Args:
        database: where to.
        secret: key of the identities.
        payload: as `tasks.names.TrackPayload` shapes it, without `v`; anything else is refused.

    Returns:
        How many are `new`, were `known`, and are `refused`.
    """
    source, events = payload.get("source"), payload.get("events")
    why = None
    if not isinstance(source, str) or not source.strip() or "\x00" in source:
        why = "the payload has no 'source': expected text that says who gave the source_ids out"
    elif not isinstance(events, list) or not 0 < len(events) <= MOST:
        why = f"'events' of the payload is no list of 1 to {MOST} events"
    elif odd := sorted(payload.keys() - {"source", "events"}):
        why = f"the payload has a key {odd[0]!r}: expected source and events"
    with database.transaction() as connection:
        if why is not None:
            refuse(connection, str(source)[:200] if source else "", dict(payload), why)
            return {"new": 0, "known": 0, "refused": 1}
        return _record(connection, secret, str(source).strip(), list(events or ()))


def refused(connection: Connection, n: int, after: int = 0) -> list[dict[str, Any]]:
    """Up to `n` refused events behind the id `after`: id, source, payload, reason, at."""
    rows = connection.execute(REFUSED, {"n": n, "after": after})
    return [dict(row._mapping) for row in rows]


def retry(connection: Connection, secret: bytes, rows: list[dict[str, Any]]) -> dict[str, int]:
    """Record refused events, as `refused` gave them; those that are refused again stay.

    Returns:
        How many are `new`, were `known`, and are `refused` again.
    """
    told = {"new": 0, "known": 0, "refused": 0}
    forget(connection, [row["id"] for row in rows])
    for row in rows:
        payload = row["payload"]
        if isinstance(payload, dict) and {"name", "source_id"} <= payload.keys():
            done = _record(connection, secret, row["source"], [payload])
        else:
            refuse(connection, row["source"], payload, row["reason"])
            done = {"new": 0, "known": 0, "refused": 1}
        told = {key: told[key] + done[key] for key in told}
    return told


def forget(connection: Connection, ids: list[int]) -> int:
    """Drop refused events for good; returns how many there were."""
    return connection.execute(FORGET, {"ids": ids}).rowcount


def refuse(connection: Connection, source: str, payload: Any, reason: str) -> None:
    """Keep what was refused, with the reason."""
    try:
        # What no jsonb can hold is what it is refused for, often enough.
        said = json.dumps(_held(payload), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        said = json.dumps({"unreadable": type(payload).__name__})
    source = _held(source)
    digest = hashlib.sha256(f"{source}\x1f{said}".encode()).digest()
    values = {"source": source, "payload": said, "digest": digest, "reason": reason}
    connection.execute(REFUSE, values)
    log.warning("event_refused", source=source, why=reason)


def _held(value: Any) -> Any:
    """A value as jsonb can hold it; what it cannot is replaced or written out."""
    if isinstance(value, str):
        return value.replace("\x00", "�").encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {_held(str(key)): _held(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_held(each) for each in value]
    return value


def _record(
    connection: Connection, secret: bytes, source: str, events: list[Any]
) -> dict[str, int]:
    found: dict[str, Found] = {}
    known = refusals = 0
    for line, event in enumerate(events):
        try:
            each = read_object(event, line, secret)
        except BadEvent as fault:
            refuse(connection, source, event, str(fault))
            refusals += 1
        else:
            known += found.setdefault(each.source_id, each) is not each
    rows = list(found.values())
    new = 0
    unknown: list[int] = []
    if rows:
        done = connection.execute(
            RECORD,
            {
                "source": source,
                "lines": [each.line for each in rows],
                "hmacs": [each.address_hmac for each in rows],
                "externals": [each.external_id for each in rows],
                "names": [each.name for each in rows],
                "ats": [each.occurred_at for each in rows],
                "source_ids": [each.source_id for each in rows],
                "properties": [encode(each.properties) for each in rows],
            },
        ).one()
        new, unknown = int(done.new), done.unknown or []
    for line in unknown:
        refuse(connection, source, events[line], UNKNOWN)
    known += len(rows) - new - len(unknown)
    return {"new": new, "known": known, "refused": refusals + len(unknown)}
