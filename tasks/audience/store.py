"""Look-ups: one subscriber, and everything that is known of them; and their stop."""

from __future__ import annotations

import datetime as dt
import hmac
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from tasks.audience.address import RefusedAddress, address_hmac, parse
from tasks.errors import Misconfigured, Permanent
from tasks.moves.stop import stop_subscriber


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A row of `subscriber`; `stopped_at` set: nothing more is sent."""

    id: int
    external_id: str | None
    address: str
    address_hmac: bytes
    first_name: str | None
    locale: str | None
    zone: str | None
    attributes: dict[str, Any]
    stopped_at: dt.datetime | None
    stopped_reason: str | None
    created_at: dt.datetime
    updated_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Dossier:
    """A subscriber and what stands about them, each part newest or lowest id first."""

    subscriber: Subscriber
    consents: list[dict[str, Any]] = field(default_factory=list)
    opt_ins: list[dict[str, Any]] = field(default_factory=list)
    suppressions: list[dict[str, Any]] = field(default_factory=list)
    enrollments: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)


_COLUMNS = """
    id, external_id, address, address_hmac, first_name, locale, zone, attributes,
    stopped_at, stopped_reason, created_at, updated_at
"""
BY_ADDRESS = text(f"SELECT {_COLUMNS} FROM subscriber WHERE address_hmac = :identity")
BY_EXTERNAL_ID = text(f"SELECT {_COLUMNS} FROM subscriber WHERE external_id = :external_id")
ANY_ONE = text("SELECT address, address_hmac FROM subscriber WHERE erased_at IS NULL LIMIT 1")

PARTS = {
    "consents": "SELECT topic, opted_in, source, at FROM consent WHERE subscriber_id = :id"
    " ORDER BY topic",
    "opt_ins": "SELECT topic, CASE WHEN confirmed_at IS NULL THEN 'pending' ELSE 'confirmed' END AS state,"
    " source, said_at, asks, asked_at, confirmed_at, encode(template_version, 'hex') AS text_version"
    " FROM opt_in WHERE subscriber_id = :id ORDER BY topic",
    "suppressions": "SELECT scope, reason, at FROM suppression WHERE address_hmac = :identity"
    " ORDER BY at DESC",
    "enrollments": "SELECT id, sequence_key, sequence_version, entry_no, step_id, active, due_at,"
    " entered_at, ended_at, end_reason FROM enrollment WHERE subscriber_id = :id ORDER BY id",
    "messages": "SELECT id, sequence_key, step_id, template, state::text AS state, run_at,"
    " terminal_at, reason FROM message WHERE subscriber_id = :id ORDER BY id LIMIT :most",
    "decisions": "SELECT at, sequence_key, step_id, kind, reason FROM decision"
    " WHERE subscriber_id = :id ORDER BY at DESC, id DESC LIMIT :most",
    "events": "SELECT occurred_at, name, properties FROM event WHERE subscriber_id = :id"
    " ORDER BY occurred_at DESC, id DESC LIMIT :most",
    "segments": "SELECT segment, edge, join_no, cause, at FROM segment_edge"
    " WHERE subscriber_id = :id ORDER BY id DESC LIMIT :most",
}


def find(connection: Connection, who: str, secret: bytes) -> Subscriber | None:
    """The subscriber with this address, or with this external id if it has no @; None: nobody.

    Args:
        connection: inside a transaction.
        who: an e-mail address in any case, or an external id.
        secret: key of the identities.
    """
    if "@" in who:
        try:
            identity = address_hmac(secret, parse(who))
        except RefusedAddress:
            return None
        row = connection.execute(BY_ADDRESS, {"identity": identity}).one_or_none()
    else:
        row = connection.execute(BY_EXTERNAL_ID, {"external_id": who}).one_or_none()
    return None if row is None else Subscriber(*row)


def get(connection: Connection, who: str, secret: bytes) -> Subscriber:
    """As `find`, for callers that need somebody.

    Raises:
        Permanent: there is nobody by that address or external id.
    """
    found = find(connection, who, secret)
    if found is None:
        what = "address" if "@" in who else "external id"
        raise Permanent(
            f"no subscriber has the {what} {who!r}; check its spelling, or import it with"
            " `dripfleet subscribers import`"
        )
    return found


def dossier(connection: Connection, subscriber: Subscriber, most: int = 20) -> Dossier:
    """What stands about a subscriber; at most `most` messages, decisions and events.

    Use it in `Database.snapshot()`, so that the parts agree with each other.
    """
    values = {"id": subscriber.id, "identity": subscriber.address_hmac, "most": most}
    parts = {
        part: [dict(row) for row in connection.execute(text(query), values).mappings()]
        for part, query in PARTS.items()
    }
    return Dossier(subscriber, **parts)


def stop(connection: Connection, subscriber_id: int, reason: str) -> tuple[int, int]:
    """Stop a subscriber for good: nothing more is sent, what is queued neither.

    Returns:
        (enrollments ended, messages suppressed).
    """
    return stop_subscriber(connection, subscriber_id, reason)


def ensure_topic(connection: Connection, key: str, title: str | None = None) -> bool:
    """Make a topic if there is none by that key; whether it was made."""
    made = connection.execute(
        text(
            "INSERT INTO topic (key, title) VALUES (:key, :title)"
            " ON CONFLICT (key) DO NOTHING RETURNING key"
        ),
        {"key": key, "title": title or key},
    )
    return made.one_or_none() is not None


def topics(connection: Connection) -> list[dict[str, Any]]:
    """Every topic, with how many opted in and out, and have not confirmed yet."""
    rows = connection.execute(
        text(
            "SELECT t.key, t.title, t.confirm, count(*) FILTER (WHERE c.opted_in) AS opted_in,"
            " count(*) FILTER (WHERE NOT c.opted_in) AS opted_out,"
            " (SELECT count(*) FROM opt_in o WHERE o.topic = t.key AND o.confirmed_at IS NULL) AS pending"
            " FROM topic t LEFT JOIN consent c ON c.topic = t.key GROUP BY t.key ORDER BY t.key"
        )
    )
    return [dict(row) for row in rows.mappings()]


def check_secret(connection: Connection, secret: bytes) -> None:
    """See that the subscribers that stand there were stored under this key.

    Raises:
        Misconfigured: they were not; everybody would come in a second time as somebody new, and
            their stops and suppressions would not be found.
    """
    row = connection.execute(ANY_ONE).one_or_none()
    if row is not None and not hmac.compare_digest(row[1], address_hmac(secret, row[0])):
        raise Misconfigured(
            "DRIPFLEET_SECRET_ADDRESS is not the one that this database's subscribers were stored"
            " with; use that one (embedded: the file secrets/address in DRIPFLEET_HOME)"
        )
