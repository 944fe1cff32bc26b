"""Mailgun's webhooks: HMAC-SHA256 over timestamp and token, and each token once.

Format and signature: documentation.mailgun.com, "Webhooks" and "Securing webhooks". Their signature does
not cover the event, so a token that was used opens nothing again, and TLS has to guard the rest.
"""

from __future__ import annotations

import hmac
import time
from typing import Any, Final

from tasks.return_path import NAME as VARIABLE
from tasks.tokens import Keys
from tasks.track.classes import Class, classify
from tasks.track.report import Kind, Report
from workers.edge.providers import Forged, about, inside, objects, words

NAME: Final = "mailgun"
AGE: Final = 9 * 3600.0
"""Seconds: they try for eight hours."""
_SUPPRESSED: Final[dict[str, tuple[Kind, Class | None]]] = {
    "suppress-bounce": ("bounced", "hard"),
    "suppress-complaint": ("complained", None),
    "suppress-unsubscribe": ("left", None),
}


def verify(key: str, body: bytes, now: float | None = None) -> tuple[dict[str, Any], str]:
    """What a genuine body says, and the token by which it comes once.

    Raises:
        Forged: it is not Mailgun's, or too old.
    """
    try:
        (told,) = objects(body)
    except ValueError as fault:
        raise Forged(str(fault)) from None
    signature = inside(told, "signature")
    at, token = words(signature.get("timestamp")), words(signature.get("token"))
    made = hmac.new(key.encode(), f"{at}{token}".encode("utf-8", "replace"), "sha256").hexdigest()
    given = words(signature.get("signature"))
    if not given.isascii() or not hmac.compare_digest(made, given):
        raise Forged("its signature is not good")
    if not at.isascii() or not at.isdigit() or len(at) > 12 or not 16 <= len(token) <= 200:
        raise Forged("its timestamp or token is none")
    if abs((time.time() if now is None else now) - int(at)) > AGE:
        raise Forged("its timestamp is too old")
    return told, token


def reports(told: dict[str, Any], keys: Keys) -> list[Report]:
    """What a verified body says of one of our mails."""
    event = inside(told, "event-data")
    status = inside(event, "delivery-status")
    said = _said(event, status)
    evidence = words(event.get("id"))
    if said is None or not evidence:
        return []
    kind, class_ = said
    report = Report(
        NAME,
        evidence,
        kind,
        class_=class_,
        code=words(status.get("enhanced-code")) or None,
        diagnostic=_told(status),
    )
    named = about(
        report,
        keys,
        inside(event, "user-variables").get(VARIABLE),
        inside(event, "envelope").get("sender"),
        message_id=inside(event, "message", "headers").get("message-id"),
        to=event.get("recipient"),
    )
    return [] if named is None else [named]


def _said(event: dict[str, Any], status: dict[str, Any]) -> tuple[Kind, Class | None] | None:
    match words(event.get("event")):
        case "delivered":
            return "delivered", None
        case "complained":
            return "complained", None
        case "unsubscribed":
            return "left", None
        case "failed" if words(event.get("severity")) == "temporary":
            return "delayed", None
        case "failed":
            known = _SUPPRESSED.get(words(event.get("reason")))
            if known is not None:
                return known
            code = status.get("code")
            smtp = code if isinstance(code, int) and 400 <= code < 600 else None
            enhanced = words(status.get("enhanced-code")) or None
            return "bounced", classify(enhanced, _told(status), smtp)
        case "rejected":
            return "bounced", "message"
    return None


def _told(status: dict[str, Any]) -> str:
    return words(status.get("message")) or words(status.get("description"))
