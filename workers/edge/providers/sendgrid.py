"""Twilio SendGrid's Event Webhook, signed: ECDSA P-256 over timestamp and raw body.

Formats and signature: docs.sendgrid.com, "Event Webhook Reference" and "Signed Event Webhook". The public key
is what the settings page shows: SubjectPublicKeyInfo, base64 of DER.
"""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tasks.return_path import NAME as VARIABLE
from tasks.tokens import Keys
from tasks.track.classes import Class, classify
from tasks.track.report import Kind, Report
from workers.edge.providers import Forged, about, objects, words

NAME: Final = "sendgrid"
SIGNATURE: Final = "x-twilio-email-event-webhook-signature"
TIMESTAMP: Final = "x-twilio-email-event-webhook-timestamp"
AGE: Final = 26 * 3600.0
"""Seconds: they try for a day. Within it a second time does nothing, by the id of each event."""

_CLASSES: Final[dict[str, Class]] = {
    "invalid address": "hard",
    "mailbox unavailable": "soft",
    "technical": "soft",
    "technical failure": "soft",
    "frequency/volume": "soft",
    "frequency or volume too high": "soft",
    "reputation": "policy",
    "content": "message",
}
_DROPPED: Final[dict[str, tuple[Kind, Class | None]]] = {
    "bounced address": ("bounced", "hard"),
    "invalid": ("bounced", "hard"),
    "spam reporting address": ("complained", None),
    "unsubscribed address": ("left", None),
}


def public_key(given: str) -> ec.EllipticCurvePublicKey:
    """The key as settings name it.

    Raises:
        ValueError: it is none on P-256.
    """
    try:
        key = load_der_public_key(b64decode(given, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ValueError(
            "expected the verification key of the Event Webhook, base64 of a P-256 key"
        )
    return key


def verify(
    key: ec.EllipticCurvePublicKey,
    body: bytes,
    headers: Mapping[str, str],
    now: float | None = None,
) -> None:
    """See that a body is SendGrid's, and of today.

    Raises:
        Forged: it is not.
    """
    at = headers.get(TIMESTAMP, "")
    try:
        signature = b64decode(headers.get(SIGNATURE, ""), validate=True)
        key.verify(signature, at.encode("latin-1") + body, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError) as fault:
        raise Forged(f"its signature is not good ({type(fault).__name__})") from None
    if not at.isascii() or not at.isdigit() or len(at) > 12:
        raise Forged("its timestamp is none")
    if abs((time.time() if now is None else now) - int(at)) > AGE:
        raise Forged("its timestamp is more than a day away")


def reports(body: bytes, keys: Keys) -> list[Report]:
    """What a verified body says of our mails.

    Raises:
        ValueError: it is no list of events.
    """
    found = []
    for event in objects(body):
        said = _said(event)
        evidence = words(event.get("sg_event_id"))
        if said is None or not evidence:
            continue
        kind, class_ = said
        diagnostic = words(event.get("reason")) or words(event.get("response"))
        report = Report(
            NAME,
            evidence,
            kind,
            class_=class_,
            code=words(event.get("status")) or None if kind == "bounced" else None,
            diagnostic=diagnostic,
        )
        named = about(
            report,
            keys,
            event.get(VARIABLE),
            message_id=event.get("smtp-id"),
            to=event.get("email"),
        )
        if named is not None:
            found.append(named)
    return found


def _said(event: dict[str, Any]) -> tuple[Kind, Class | None] | None:
    match words(event.get("event")):
        case "delivered":
            return "delivered", None
        case "deferred":
            return "delayed", None
        case "spamreport":
            return "complained", None
        case "unsubscribe" | "group_unsubscribe":
            return "left", None
        case "dropped":
            reason = words(event.get("reason")).lower()
            return _DROPPED.get(reason, ("bounced", "message"))
        case "bounce":
            class_ = _CLASSES.get(words(event.get("bounce_classification")).lower())
            if class_ is None:
                status = words(event.get("status"))
                class_ = classify(status if "." in status else None, words(event.get("reason")))
            if words(event.get("type")) == "blocked" and class_ == "hard":
                class_ = "policy"
            return "bounced", class_
    return None
