"""All that is stored about one person, for that person: every row of every table that names them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, text

from tasks.audience.store import Subscriber

_BY_SUBSCRIBER: Final = (
    "consent", "opt_in", "snooze", "enrollment", "decision", "message", "event", "entry_request",
    "entry_refusal", "conversion", "score", "entry_score", "segment_present", "segment_edge",
    "segment_member", "webhook_outbox", "webhook_delivery", "experiment_assignment", "feedback",
)  # fmt: skip
_BY_MESSAGE: Final = ("attempt", "hit")

PARTS: Final[dict[str, str]] = {
    "suppression": "SELECT to_jsonb(t) FROM suppression t WHERE t.address_hmac = :identity",
    **{
        table: f"SELECT to_jsonb(t) FROM {table} t WHERE t.subscriber_id = :id"
        for table in _BY_SUBSCRIBER
    },
    **{
        table: f"SELECT to_jsonb(t) FROM {table} t JOIN message m ON m.id = t.message_id"
        " WHERE m.subscriber_id = :id"
        for table in _BY_MESSAGE
    },
    "content": "SELECT jsonb_build_object('message_id', t.message_id,"
    " 'body', encode(t.body, 'base64')) FROM content t JOIN message m ON m.id = t.message_id"
    " WHERE m.subscriber_id = :id",
    "event_refused": "SELECT to_jsonb(t) FROM event_refused t"
    " WHERE lower(t.payload ->> 'email') = lower(:address)"
    " OR t.payload ->> 'external_id' = :external_id",
}
"""Table → the query of its rows about somebody; a test holds it to the tables there are."""
SUBSCRIBER: Final = text("SELECT to_jsonb(s) FROM subscriber s WHERE s.id = :id")


def export(connection: Connection, subscriber: Subscriber) -> dict[str, Any]:
    """Everything about a subscriber, by table; use it in `Database.snapshot()`.

    Stamps are ISO 8601, hashes hexadecimal, a kept mail is base64 of its octets.
    """
    values = {
        "id": subscriber.id,
        "identity": subscriber.address_hmac,
        "address": subscriber.address,
        "external_id": subscriber.external_id,
    }
    found: dict[str, Any] = {
        "subscriber": connection.execute(SUBSCRIBER, values).scalar_one(),
    }
    for table, query in PARTS.items():
        rows = connection.execute(text(query), values).scalars().all()
        if rows:
            found[table] = rows
    return found
