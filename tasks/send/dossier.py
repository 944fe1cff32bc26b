"""One message as an operator looks at it: its row, its attempts, and the mail itself once more."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.utils import parseaddr
from typing import Any, Literal

from sqlalchemy import Connection, text

from schedules.prompt import put_back
from tasks.errors import Permanent
from tasks.send.confine import render_confined
from tasks.send.content import Content, Facts, Sender, compose, unsubscribe_url
from tasks.send.edge import Edge, OfMail, Reach
from tasks.send.links import Links, known_rows
from tasks.send.render import Bundle, Rendered, files_of
from tasks.send.settings import SendSettings

# What is not frozen yet is shown as a claim made now would freeze it.
FIND = """
SELECT m.id, m.rfc_message_id, m.stream, m.sequence_key, m.sequence_version, m.step_id, m.entry_no,
    m.enrollment_id, m.subscriber_id, m.template, m.state::text AS state, m.reason,
    NULLIF(m.run_at, 'infinity') AS run_at, NULLIF(m.watch_at, 'infinity') AS watch_at,
    m.parked_from, m.expires_at, m.epoch, m.owner, m.armed_at, m.terminal_at, m.attempts, m.takes,
    m.crashes, m.last_code, m.last_stage, m.maybe_delivered, m.created_at, m.frozen_at,
    m.content_sha256, m.effect_key, s.address, t.sender, t.doubt_policy,
    t.class AS class_, t.tracking, t.pause_reason AS stream_paused,
    m.frozen_at IS NOT NULL AS frozen, clock_timestamp() AS now,
    coalesce(m.template_version, (SELECT x.sha256 FROM template x WHERE x.name = m.template)) AS version,
    coalesce(m.variables, jsonb_build_object('first_name', s.first_name, 'locale', s.locale,
        'zone', s.zone, 'attributes', s.attributes)
        || CASE WHEN m.words IS NULL THEN '{}' ELSE jsonb_build_object('words', m.words) END
        || CASE WHEN m.event IS NULL THEN '{}' ELSE jsonb_build_object('event', m.event) END)
        AS variables,
    c.body, c.sha256 AS body_sha256
FROM message m
JOIN subscriber s ON s.id = m.subscriber_id
JOIN stream t ON t.key = m.stream
LEFT JOIN content c ON c.message_id = m.id
"""
BY_ID = text(FIND + "WHERE m.id = :id")
BY_MESSAGE_ID = text(FIND + "WHERE m.rfc_message_id = :message_id")
ATTEMPTS = text("""
SELECT epoch, outcome::text AS outcome, stage, code, enhanced_code, reply, armed_at, ended_at, owner,
    evidence, content_sha256
FROM attempt WHERE message_id = :id ORDER BY epoch
""")
CAME_BACK = text("""
SELECT at, source, kind, class, code, diagnostic FROM feedback WHERE message_id = :id ORDER BY id
""")
SOURCES = text("SELECT name, parts FROM template_source WHERE sha256 = :sha256")

FACTS = (
    "id", "rfc_message_id", "state", "reason", "stream", "stream_paused", "doubt_policy", "sequence_key",
    "sequence_version", "step_id", "entry_no", "enrollment_id", "subscriber_id", "template",
    "created_at", "run_at", "parked_from", "watch_at", "expires_at", "frozen_at", "armed_at",
    "terminal_at", "epoch", "owner", "takes", "attempts", "crashes", "last_code", "last_stage",
    "maybe_delivered", "content_sha256",
)  # fmt: skip

Likeness = Literal["same", "differs", "not_armed"]


@dataclass(frozen=True, slots=True)
class Mail:
    """The octets of a mail as it was, or as it would be.

    Attributes:
        octets: headers and body, before dot-stuffing.
        kept: they are the very bytes that were kept; else they were rendered again.
        frozen: variables and template are those that a claim froze; else those of now.
        likeness: to the hash that ARM froze; `not_armed`: there is none yet.
    """

    octets: bytes
    kept: bool
    frozen: bool
    likeness: Likeness


@dataclass(frozen=True, slots=True)
class Dossier:
    """A message; `mail` is None where it cannot be made again, and `why_not` says why.

    `came_back` is what was said of it later: bounces, complaints, deliveries that told something.
    """

    facts: dict[str, Any]
    attempts: list[dict[str, Any]]
    mail: Mail | None
    why_not: str | None = None
    came_back: list[dict[str, Any]] = field(default_factory=list)


def dossier(connection: Connection, reference: str, settings: SendSettings | None) -> Dossier:
    """A message by its row id or its Message-ID, with or without angle brackets.

    Args:
        connection: inside a transaction.
        reference: `4711` or `<…@example.com>`.
        settings: sender and token secret of the send pool; None: the mail is shown only if its
            bytes were kept.

    Raises:
        Permanent: there is no such message.
    """
    row = _row(connection, reference.strip())
    attempts = [dict(each) for each in connection.execute(ATTEMPTS, {"id": row.id}).mappings()]
    facts = {name: getattr(row, name) for name in FACTS}
    back = [dict(each) for each in connection.execute(CAME_BACK, {"id": row.id}).mappings()]
    try:
        mail = _mail(connection, row, settings)
    except Permanent as fault:
        return Dossier(facts, attempts, None, str(fault), back)
    return Dossier(facts, attempts, mail, None, back)


def _row(connection: Connection, reference: str) -> Any:
    if reference.isascii() and reference.isdecimal() and len(reference) <= 18:
        row = connection.execute(BY_ID, {"id": int(reference)}).one_or_none()
    else:
        message_id = reference if reference.startswith("<") else f"<{reference}>"
        row = connection.execute(BY_MESSAGE_ID, {"message_id": message_id}).one_or_none()
    if row is None:
        raise Permanent(
            f"no message is {reference!r}: expected its id or its Message-ID, as `dripfleet explain"
            " EMAIL` and the mail's own headers name them"
        )
    return row


def _mail(connection: Connection, row: Any, settings: SendSettings | None) -> Mail:
    if row.body is not None and row.body_sha256 == row.content_sha256:
        return Mail(bytes(row.body), True, True, "same")
    if settings is None:
        raise Permanent(
            "the settings of the send pool are not here; set what `dripfleet worker send` is given"
        )
    if row.version is None:
        raise Permanent("no template of that name is published; apply its sequence again")
    stored = connection.execute(SOURCES, {"sha256": row.version}).one_or_none()
    if stored is None:
        raise Permanent("the sources of its template are gone; apply its sequence again")
    sender = _sender(row.sender, settings.sender)
    edge = Edge(Links(known_rows(connection), settings.edge_url), settings.edge_url)
    reach = Reach(row.class_ == "marketing", row.tracking)
    likeness: Likeness = "not_armed"
    # Its tokens may be of a key that signs no more.
    for keys in (settings.keys, *settings.keys.others()):
        here = edge.of(Bundle.of_stored(stored.name, stored.parts), reach, keys)
        content = _made(row, sender, here)
        if row.content_sha256 is not None:
            likeness = "same" if bytes(row.content_sha256) == content.sha256 else "differs"
        if likeness != "differs":
            break
    return Mail(content.octets, False, row.frozen, likeness)


def _made(row: Any, sender: Sender, edge: OfMail) -> Content:
    variables = {
        "subscriber": row.variables,
        "words": put_back(row.variables.get("words", {}), row.variables),
        "event": row.variables.get("event", {}),
        "sender": {"name": sender.name, "postal_address": sender.postal_address},
        **edge.variables(row.id, unsubscribe_url(sender, edge.token(row.id))),
    }
    # In a child: this may be the very mail that took a worker down.
    [rendered] = render_confined(edge.tracked.bundle, [variables])
    if not isinstance(rendered, Rendered):
        raise Permanent(rendered.reason)
    facts = Facts(
        row.rfc_message_id,
        row.address,
        row.frozen_at or row.now,
        bytes(row.effect_key),
        edge.token(row.id),
        edge.one_click(row.id),
    )
    files = files_of(edge.tracked.bundle, variables)
    return compose(rendered, message=facts, sender=sender, files=files)


def _sender(own: str | None, default: Sender) -> Sender:
    """The stream's own sender, `Name <address>`, or that of the settings."""
    if not own:
        return default
    name, address = parseaddr(own)
    return Sender(name or default.name, address, default.postal_address, default.unsubscribe_mailto)
