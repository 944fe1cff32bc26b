"""Endpoints: added, paused, resumed, turned, removed; and how each stands."""

from __future__ import annotations

import datetime as dt
import re
import secrets
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, text

from tasks.errors import Permanent
from tasks.webhooks import engine, kinds, target

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)

ADD = text("""
INSERT INTO webhook_endpoint (name, url, types, addresses, salt)
VALUES (:name, :url, CAST(:types AS text[]), :addresses, :salt)
ON CONFLICT (name) DO NOTHING RETURNING id
""")
HOLD = text("""
SELECT id, name, url, types, addresses, salt, secret_no, paused_at, disabled_at,
    old_until > clock_timestamp() AS overlaps
FROM webhook_endpoint WHERE name = :name FOR UPDATE
""")
TURN = text("""
UPDATE webhook_endpoint
SET secret_no = secret_no + 1, old_until = clock_timestamp() + CAST(:overlap AS interval)
WHERE id = :id
""")
PAUSE = text("""
UPDATE webhook_endpoint SET paused_at = coalesce(paused_at, clock_timestamp()), pause_reason = :reason
WHERE id = :id
""")
# What waited meanwhile is due at once, also what had been put off for long.
RESUME = text("""
UPDATE webhook_endpoint SET paused_at = NULL, pause_reason = NULL, disabled_at = NULL,
    disable_reason = NULL, failures = 0, failing_since = NULL, quiet_until = NULL
WHERE id = :id
""")
AT_ONCE = text("""
UPDATE webhook_delivery SET due_at = clock_timestamp()
WHERE endpoint_id = :id AND due_at > clock_timestamp()
""")
REMOVE = text("DELETE FROM webhook_endpoint WHERE id = :id")
# Asked every few seconds by whoever watches: counted up to 100 000, and the oldest sought among the
# thousand that are due first.
LIST = text("""
SELECT e.name, e.url, e.types, e.addresses,
    CASE WHEN e.disabled_at IS NOT NULL THEN 'disabled' WHEN e.paused_at IS NOT NULL THEN 'paused'
        WHEN e.failing_since IS NOT NULL THEN 'failing' ELSE 'good' END AS stands,
    coalesce(e.disable_reason, e.pause_reason, (
        SELECT coalesce(d.fault, 'status ' || d.status) FROM webhook_delivery d
        WHERE e.failing_since IS NOT NULL AND d.endpoint_id = e.id AND d.due_at IS NOT NULL
          AND d.attempts > 0 ORDER BY d.due_at LIMIT 1)) AS why,
    coalesce(e.disabled_at, e.paused_at, e.failing_since) AS since,
    (SELECT count(*) FROM (SELECT FROM webhook_delivery d
        WHERE d.endpoint_id = e.id AND d.due_at IS NOT NULL LIMIT 100000) x) AS waiting,
    (SELECT extract(epoch FROM clock_timestamp() - min(x.created_at)) FROM (
        SELECT d.created_at FROM webhook_delivery d
        WHERE d.endpoint_id = e.id AND d.due_at IS NOT NULL ORDER BY d.due_at LIMIT 1000) x) AS oldest,
    (SELECT count(*) FROM (SELECT FROM webhook_delivery d
        WHERE d.endpoint_id = e.id AND d.dead_at IS NOT NULL LIMIT 100000) x) AS dead,
    e.delivered_at
FROM webhook_endpoint e ORDER BY e.name
""")


def add(
    connection: Connection,
    name: str,
    url: str,
    *,
    key: bytes,
    types: Sequence[str] = (),
    addresses: bool = False,
    plain: bool = False,
) -> str:
    """Add an endpoint, which is told what happens from now on; returns its secret.

    Args:
        connection: inside a transaction.
        name: by which a step `webhook` calls it, too.
        url: where; its addresses are looked at when it is called.
        key: what secrets are made from.
        types: of `kinds`; none: `kinds.DEFAULT`.
        addresses: it is told e-mail addresses.
        plain: http is permitted.

    Raises:
        Permanent: a name, URL or type that is none, or a name that is taken.
    """
    if not _NAME.fullmatch(name):
        raise Permanent(
            f"an endpoint's name is small letters, digits, - and _, 63 at most, not {name!r}"
        )
    target.parse(url, plain=plain)
    salt = secrets.token_bytes(16)
    values = {
        "name": name,
        "url": url,
        "types": kinds.checked([*types]),
        "addresses": addresses,
        "salt": salt,
    }
    if connection.execute(ADD, values).one_or_none() is None:
        raise Permanent(
            f"there is an endpoint {name!r} already; `dripfleet webhooks list` shows it, and"
            f" `dripfleet webhooks remove {name}` takes it away"
        )
    return engine.shown(engine.secret(key, salt, 1))


def endpoint(connection: Connection, name: str) -> Any:
    """The row of an endpoint, held until the transaction ends.

    Raises:
        Permanent: there is none of that name.
    """
    row = connection.execute(HOLD, {"name": name}).one_or_none()
    if row is None:
        raise Permanent(
            f"there is no webhook endpoint {name!r}; `dripfleet webhooks list` shows which there are"
        )
    return row


def rotate(connection: Connection, name: str, overlap: dt.timedelta, *, key: bytes) -> str:
    """Turn the secret of an endpoint; both sign for `overlap`. Returns the new one.

    Raises:
        Permanent: there is none of that name, or both its secrets are good yet.
    """
    row = endpoint(connection, name)
    if row.overlaps:
        raise Permanent(
            f"the secret of {name} was turned a while ago, and the one before is good yet: a third"
            " would end it early; try again when its time is over"
        )
    connection.execute(TURN, {"id": row.id, "overlap": overlap})
    return engine.shown(engine.secret(key, bytes(row.salt), row.secret_no + 1))


def pause(connection: Connection, name: str, reason: str) -> None:
    """Call this endpoint no more; what happens is kept for it.

    Raises:
        Permanent: there is none of that name.
    """
    connection.execute(PAUSE, {"id": endpoint(connection, name).id, "reason": reason})


def resume(connection: Connection, name: str) -> int:
    """Call an endpoint again that was paused or disabled; returns how many put-off ones are due now.

    Raises:
        Permanent: there is none of that name.
    """
    row = endpoint(connection, name)
    connection.execute(RESUME, {"id": row.id})
    return connection.execute(AT_ONCE, {"id": row.id}).rowcount


def remove(connection: Connection, name: str) -> None:
    """Take an endpoint away, with all that waits for it.

    Raises:
        Permanent: there is none of that name.
    """
    connection.execute(REMOVE, {"id": endpoint(connection, name).id})


def listed(connection: Connection) -> list[dict[str, Any]]:
    """How each endpoint stands; `oldest`: seconds that something waits for it. Counts end at 100 000."""
    return [dict(row) for row in connection.execute(LIST).mappings()]
