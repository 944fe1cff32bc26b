"""What is due at an endpoint, how it went, and what became a dead letter."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from tasks.webhooks import book, engine, kinds
from tasks.webhooks.engine import Answer, Verdict

LEASE: Final = 180.0
"""Seconds after which what was taken is due again: its worker died."""
PRUNED: Final = 5_000

# Calls of steps become deliveries to the endpoint of that name, each once; those to a disabled one stay.
CALLS = text("""
WITH taken AS (
    UPDATE webhook_outbox o SET delivered_at = clock_timestamp()
    FROM webhook_endpoint e
    WHERE e.name = o.target AND o.id IN (
        SELECT w.id FROM webhook_outbox w JOIN webhook_endpoint x ON x.name = w.target
        WHERE w.delivered_at IS NULL AND x.disabled_at IS NULL ORDER BY w.created_at LIMIT :n FOR UPDATE OF w SKIP LOCKED)
    RETURNING e.id AS endpoint_id, o.effect_key, o.payload, o.subscriber_id, o.created_at)
INSERT INTO webhook_delivery (endpoint_id, key, type, subscriber_id, data, created_at)
SELECT endpoint_id, 'call_' || encode(effect_key, 'hex'), :type, subscriber_id,
    payload - 'subscriber' - 'at', created_at
FROM taken
""")
READY = text("""
SELECT e.id, e.name, e.url, e.addresses, e.salt, e.secret_no, e.failures,
    coalesce(e.old_until > clock_timestamp(), false) AS overlaps
FROM webhook_endpoint e
WHERE e.paused_at IS NULL AND e.disabled_at IS NULL
  AND coalesce(e.quiet_until, '-infinity') <= clock_timestamp()
  AND EXISTS (SELECT FROM webhook_delivery d
      WHERE d.endpoint_id = e.id AND d.due_at <= (SELECT clock_timestamp()))
ORDER BY e.id
""")
# The lease is a later `due_at`; nobody waits for rows that somebody else takes.
CLAIM = text("""
WITH due AS MATERIALIZED (
    SELECT d.id FROM webhook_delivery d
    WHERE d.endpoint_id = :endpoint AND d.due_at <= (SELECT clock_timestamp())
    ORDER BY d.due_at LIMIT :n FOR UPDATE SKIP LOCKED),
taken AS (
    UPDATE webhook_delivery d
    SET due_at = clock_timestamp() + make_interval(secs => :lease), attempts = d.attempts + 1
    FROM due WHERE d.id = due.id
    RETURNING d.id, d.key, d.type, d.data, d.attempts, d.created_at, d.subscriber_id)
SELECT t.*, s.external_id, s.address, s.erased_at IS NOT NULL AS erased,
    extract(epoch FROM clock_timestamp() - t.created_at)::float8 AS age
FROM taken t LEFT JOIN subscriber s ON s.id = t.subscriber_id ORDER BY t.id
""")
# `attempts` is the fence: who came too late changes nothing.
SETTLE = text("""
UPDATE webhook_delivery d SET status = r.status, fault = r.fault,
    delivered_at = CASE WHEN r.kind = 'delivered' THEN clock_timestamp() END,
    dead_at = CASE WHEN r.kind IN ('dead', 'gone') THEN clock_timestamp() END,
    due_at = CASE WHEN r.kind = 'again' THEN clock_timestamp() + make_interval(secs => r.after) END
FROM unnest(CAST(:ids AS bigint[]), CAST(:attempts AS integer[]), CAST(:kinds AS text[]),
            CAST(:afters AS float8[]), CAST(:statuses AS smallint[]), CAST(:faults AS text[]))
     AS r (id, attempts, kind, after, status, fault)
WHERE d.id = r.id AND d.attempts = r.attempts AND d.due_at IS NOT NULL
""")
WELL = text("""
UPDATE webhook_endpoint SET failures = 0, failing_since = NULL, quiet_until = NULL,
    delivered_at = clock_timestamp()
WHERE id = :id
""")
ILL = text("""
UPDATE webhook_endpoint SET failures = failures + 1,
    failing_since = coalesce(failing_since, clock_timestamp()),
    quiet_until = CASE WHEN :rest > 0 THEN clock_timestamp() + make_interval(secs => :rest) END,
    disabled_at = CASE WHEN disabled_at IS NOT NULL OR :gone
        OR failing_since < clock_timestamp() - make_interval(secs => :disable_after)
        THEN coalesce(disabled_at, clock_timestamp()) END,
    disable_reason = CASE WHEN disabled_at IS NOT NULL THEN disable_reason
        WHEN :gone THEN 'it answered 410: it is gone'
        WHEN failing_since < clock_timestamp() - make_interval(secs => :disable_after)
        THEN 'nothing got through for ' || round(:disable_after / 86400) || ' days' END
WHERE id = :id
""")
DEAD = text("""
SELECT d.key, e.name AS endpoint, d.type, d.data, d.created_at, d.dead_at, d.attempts, d.status, d.fault
FROM webhook_delivery d JOIN webhook_endpoint e ON e.id = d.endpoint_id
WHERE d.dead_at IS NOT NULL AND (CAST(:name AS text) IS NULL OR e.name = :name)
ORDER BY d.dead_at DESC, d.id DESC LIMIT :most
""")
# Under their keys: who heard of it before can tell.
REPLAY = text("""
UPDATE webhook_delivery d SET due_at = clock_timestamp(), attempts = 0, delivered_at = NULL,
    dead_at = NULL, status = NULL, fault = NULL
WHERE d.endpoint_id = :id AND d.due_at IS NULL
  AND (CAST(:key AS text) IS NULL OR d.key = :key)
  AND (CAST(:since AS interval) IS NULL OR d.created_at >= clock_timestamp() - :since)
  AND (NOT :dead OR d.dead_at IS NOT NULL)
""")
# Apart, so that each goes by its index: the delivered are many, the others few.
PRUNE = tuple(
    text(f"""
DELETE FROM webhook_delivery WHERE id IN (
    SELECT d.id FROM webhook_delivery d
    WHERE {which} < clock_timestamp() - make_interval(days => :days) LIMIT :n)
""")
    for which in (
        "d.delivered_at",
        "d.dead_at IS NOT NULL AND d.dead_at",
        "d.due_at IS NOT NULL AND d.endpoint_id IN"
        " (SELECT e.id FROM webhook_endpoint e WHERE e.disabled_at IS NOT NULL) AND d.created_at",
    )
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One that may be called now; `secrets`: all that sign."""

    id: int
    name: str
    url: str
    addresses: bool
    secrets: tuple[bytes, ...]
    failures: int


@dataclass(frozen=True, slots=True)
class Due:
    """One thing to be told; `body` is what is sent, `age` the seconds since it happened."""

    id: int
    key: str
    attempts: int
    age: float
    body: bytes


def take_calls(connection: Connection, n: int = 500) -> int:
    """Take over what steps have put into the outbox for an endpoint of that name."""
    return connection.execute(CALLS, {"n": n, "type": kinds.CALLED}).rowcount


def ready(connection: Connection, key: bytes) -> list[Endpoint]:
    """The endpoints that may be called, and have something due."""
    return [
        Endpoint(row.id, row.name, row.url, row.addresses, _secrets(row, key), row.failures)
        for row in connection.execute(READY)
    ]


def claim(connection: Connection, endpoint: Endpoint, n: int) -> list[Due]:
    """Take up to `n` that are due."""
    values = {"endpoint": endpoint.id, "n": n, "lease": LEASE}
    return [
        Due(
            row.id,
            row.key,
            row.attempts,
            row.age,
            engine.body(row.type, row.created_at, row.data, _who(row, endpoint.addresses)),
        )
        for row in connection.execute(CLAIM, values)
    ]


def settle(
    connection: Connection,
    endpoint: Endpoint,
    told: Sequence[tuple[Due, Answer, Verdict]],
    *,
    rest: float,
    disable_after: float,
) -> None:
    """Write down how it went, and what that says of the endpoint.

    Args:
        connection: inside a transaction.
        endpoint: the one that was called.
        told: what was tried, with its answer.
        rest: seconds that it is left alone if nothing got through.
        disable_after: seconds of nothing but failures.
    """
    values = {
        "ids": [due.id for due, _, _ in told],
        "attempts": [due.attempts for due, _, _ in told],
        "kinds": [verdict.kind for _, _, verdict in told],
        "afters": [verdict.after for _, _, verdict in told],
        "statuses": [answer.status for _, answer, _ in told],
        "faults": [answer.fault for _, answer, _ in told],
    }
    connection.execute(SETTLE, values)
    gone = any(verdict.kind == "gone" for _, _, verdict in told)
    if not gone and any(verdict.kind == "delivered" for _, _, verdict in told):
        connection.execute(WELL, {"id": endpoint.id})
        return
    more = {"id": endpoint.id, "rest": rest, "gone": gone, "disable_after": disable_after}
    connection.execute(ILL, more)


def dead(connection: Connection, name: str | None = None, most: int = 100) -> list[dict[str, Any]]:
    """Dead letters, of one endpoint or of all, the latest first.

    Raises:
        Permanent: there is no endpoint of that name.
    """
    if name is not None:
        book.endpoint(connection, name)
    return [dict(row) for row in connection.execute(DEAD, {"name": name, "most": most}).mappings()]


def replay(
    connection: Connection,
    name: str,
    *,
    key: str | None = None,
    since: dt.timedelta | None = None,
    dead: bool = False,
) -> int:
    """Make due again what was delivered or is dead, of those that are kept; returns how many.

    Args:
        connection: inside a transaction.
        name: of the endpoint.
        key: this one alone.
        since: those that happened within this time.
        dead: dead letters alone.

    Raises:
        Permanent: there is no endpoint of that name.
    """
    values = {"id": book.endpoint(connection, name).id, "key": key, "since": since, "dead": dead}
    return connection.execute(REPLAY, values).rowcount


def prune(connection: Connection, days: int) -> int:
    """Drop what was delivered or died so long ago, and what waits for a disabled endpoint; how many.

    At most `PRUNED` of each kind.
    """
    values = {"days": days, "n": PRUNED}
    return sum(connection.execute(each, values).rowcount for each in PRUNE)


def _secrets(row: Any, key: bytes) -> tuple[bytes, ...]:
    numbers = (row.secret_no, row.secret_no - 1) if row.overlaps else (row.secret_no,)
    return tuple(engine.secret(key, bytes(row.salt), number) for number in numbers)


def _who(row: Any, addresses: bool) -> dict[str, Any] | None:
    if row.subscriber_id is None:
        return None
    who = {"id": row.subscriber_id, "external_id": row.external_id}
    return who | ({"address": row.address} if addresses and not row.erased else {})
