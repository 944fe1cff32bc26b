"""Postmark's webhooks: basic authentication, and a path that nobody knows; they sign nothing.

Formats: postmarkapp.com/developer/webhooks, bounce types: "Bounce API". A mail is known by its metadata,
which the stream's mails carry with `stream set STREAM --provider postmark`.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode
from typing import Any, Final

from tasks.return_path import NAME as VARIABLE
from tasks.tokens import Keys
from tasks.track.classes import Class, classify
from tasks.track.report import Kind, Report
from workers.edge.providers import Forged, about, inside, objects, words

NAME: Final = "postmark"
_TYPES: Final[dict[str, tuple[Kind, Class | None]]] = {
    "HardBounce": ("bounced", "hard"),
    "BadEmailAddress": ("bounced", "hard"),
    "ManuallyDeactivated": ("bounced", "hard"),
    "SoftBounce": ("bounced", "soft"),
    "DnsError": ("bounced", "soft"),
    "SpamNotification": ("bounced", "policy"),
    "Blocked": ("bounced", "policy"),
    "DMARCPolicy": ("bounced", "policy"),
    "VirusNotification": ("bounced", "message"),
    "SMTPApiError": ("bounced", "message"),
    "Transient": ("delayed", None),
    "SpamComplaint": ("complained", None),
    "Unsubscribe": ("left", None),
}
_SILENT: Final = frozenset(
    {"AutoResponder", "ChallengeVerification", "Subscribe", "AddressChange", "OpenRelayTest"}
)


def verify(user: str, password: str, path: str, authorization: str, given_path: str) -> None:
    """See that a request has both secrets.

    Raises:
        Forged: it has not.
    """
    kind, _, told = authorization.partition(" ")
    try:
        given = b64decode(told.strip(), validate=True) if kind.lower() == "basic" else b""
    except (ValueError, binascii.Error):
        given = b""
    good = hmac.compare_digest(given, f"{user}:{password}".encode())
    there = hmac.compare_digest(given_path.encode("utf-8", "replace"), path.encode())
    if not (good and there):
        raise Forged("its path or its password is wrong")


def reports(body: bytes, keys: Keys) -> list[Report]:
    """What a verified body says of one of our mails.

    Raises:
        ValueError: it is no object.
    """
    found = []
    for told in objects(body):
        said = _said(told)
        if said is None:
            continue
        kind, class_ = said
        record, to = words(told.get("RecordType")), told.get("Email") or told.get("Recipient")
        name = words(told.get("ID")) or f"{words(told.get('MessageID'))}:{words(to)}"
        report = Report(
            NAME,
            f"{record}:{name}",
            kind,
            class_=class_,
            diagnostic=words(told.get("Details")) or words(told.get("Description")),
        )
        token = inside(told, "Metadata").get(VARIABLE)
        named = about(report, keys, token, message_id=None, to=to)
        if named is not None:
            found.append(named)
    return found


def _said(told: dict[str, Any]) -> tuple[Kind, Class | None] | None:
    match words(told.get("RecordType")):
        case "Delivery":
            return "delivered", None
        case "SpamComplaint":
            return "complained", None
        case "SubscriptionChange":
            if told.get("SuppressSending") is not True:
                return None
            why = words(told.get("SuppressionReason"))
            known = {"HardBounce": "HardBounce", "SpamComplaint": "SpamComplaint"}
            return _TYPES[known.get(why, "Unsubscribe")]
        case "Bounce":
            kind = words(told.get("Type"))
            if kind in _SILENT:
                return None
            text = words(told.get("Details")) or words(told.get("Description"))
            return _TYPES.get(kind) or ("bounced", classify(None, text))
    return None
