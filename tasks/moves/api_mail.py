"""A mail outside of any sequence, that another system asks for: a receipt, a password to set anew.

Its effect is known by who asked and by the key of the request, so one that is asked for twice is sent
once, whatever died between. It goes through the stream of transactional mail, and a stop or a
suppression refuses it at its claim as it refuses every other.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Row, text

STREAM: Final = "transactional"

# While a quarantine stands nobody knows whether the fleet that is lost sent it already.
INSERT = text("""
INSERT INTO message (effect_key, rfc_message_id, stream, subscriber_id, template, template_version,
    event, state, reason, run_at, watch_at, maybe_delivered, expires_at)
SELECT :effect_key, :rfc_message_id, :stream, :subscriber_id, t.name, t.sha256, CAST(:data AS jsonb),
    CAST(CASE WHEN h.held THEN 'in_doubt' ELSE 'scheduled' END AS message_state),
    CASE WHEN h.held THEN 'quarantine' END,
    CASE WHEN NOT h.held THEN clock_timestamp() END,
    CASE WHEN h.held THEN CAST('infinity' AS timestamptz) END, h.held,
    clock_timestamp() + CAST(:lifetime AS interval)
FROM template t, LATERAL (SELECT
    EXISTS (SELECT 1 FROM quarantine u WHERE u.lifted_at IS NULL)
    OR EXISTS (SELECT 1 FROM quarantine_evidence v WHERE v.rfc_message_id = :rfc_message_id)
    AS held) h
WHERE t.name = :template
ON CONFLICT (effect_key) DO NOTHING
""")
STANDS = text("""
SELECT id, state::text AS state, reason, created_at, terminal_at FROM message
WHERE effect_key = :effect_key
""")


def api_effect_key(caller: str, idempotency_key: str) -> bytes:
    """The 32 octets of a mail that `caller` asked for under this key of its own."""
    parts = ("api", caller, idempotency_key)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


def ask(
    connection: Connection,
    subscriber_id: int,
    template: str,
    data: Mapping[str, Any],
    *,
    effect_key: bytes,
    rfc_message_id: str,
    lifetime: dt.timedelta,
) -> Row[tuple[Any, ...]] | None:
    """Make the message, unless it is there; how it stands, or None: no such template is published.

    Args:
        connection: inside a transaction.
        subscriber_id: whom to; every recipient has a row.
        template: of a published mail; the version of now.
        data: what it sees as `event`.
        effect_key: as `api_effect_key` makes it.
        rfc_message_id: from that key.
        lifetime: it expires if it was not sent in this time.
    """
    connection.execute(
        INSERT,
        {
            "effect_key": effect_key,
            "rfc_message_id": rfc_message_id,
            "stream": STREAM,
            "subscriber_id": subscriber_id,
            "template": template,
            "data": json.dumps(dict(data)),
            "lifetime": lifetime,
        },
    )
    return stands(connection, effect_key)


def stands(connection: Connection, effect_key: bytes) -> Row[tuple[Any, ...]] | None:
    """How a mail that was asked for stands; None: it was not."""
    return connection.execute(STANDS, {"effect_key": effect_key}).one_or_none()
