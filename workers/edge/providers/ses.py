"""Amazon SES through SNS: bounces, complaints and deliveries, as notifications or as events.

Formats: docs.aws.amazon.com/ses, "Amazon SNS notification contents" and "event data"; signatures:
docs.aws.amazon.com/sns, "Verifying the signatures of Amazon SNS messages". SignatureVersion 1 is SHA-1, and
refused: set the topic's attribute SignatureVersion to 2.
"""

from __future__ import annotations

import datetime as dt
import http.client
import re
import ssl
from base64 import b64decode
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tasks.tokens import Keys
from tasks.track.classes import Class, classify
from tasks.track.report import Kind, Report
from workers.edge.providers import Forged, about, inside, objects, words

NAME: Final = "ses"
HOST: Final = re.compile(r"sns\.[a-z0-9-]{3,30}\.amazonaws\.com(\.cn)?", re.ASCII)
PATH: Final = re.compile(r"/SimpleNotificationService-[0-9a-zA-Z]{1,64}\.pem", re.ASCII)
LARGEST: Final = 32_768
PATIENCE: Final = 5.0

_SIGNED: Final = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type",
    ),
}  # fmt: skip
_SIGNED["UnsubscribeConfirmation"] = _SIGNED["SubscriptionConfirmation"]
_SUBTYPES: Final[dict[str, Class]] = {
    "NoEmail": "hard",
    "Suppressed": "hard",
    "OnAccountSuppressionList": "hard",
    "MailboxFull": "soft",
    "MessageTooLarge": "message",
    "ContentRejected": "message",
    "AttachmentRejected": "message",
}

Fetch = Callable[[str], bytes]


def fetch(url: str) -> bytes:
    """What stands at an https address of SNS; no redirect is followed, little is read.

    Raises:
        Forged: it is none of SNS's.
        OSError: it does not answer.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not HOST.fullmatch(parts.netloc):
        raise Forged("an address that is not of SNS")
    connection = http.client.HTTPSConnection(
        parts.netloc, timeout=PATIENCE, context=ssl.create_default_context()
    )
    try:
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""))
        answer = connection.getresponse()
        content = answer.read(LARGEST)
    except http.client.HTTPException as fault:
        raise OSError(type(fault).__name__) from fault
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"status {answer.status}")
    return content


class Sns:
    """Verifies what comes of SNS; keeps the few certificates that it signs with.

    Args:
        topics: the ARNs that are ours.
        fetch: reads an address of SNS.
    """

    def __init__(self, topics: frozenset[str], fetch: Fetch = fetch) -> None:
        self._topics = topics
        self._fetch = fetch
        self._keys: dict[str, tuple[rsa.RSAPublicKey, dt.datetime]] = {}

    def verify(self, body: bytes) -> dict[str, Any]:
        """The envelope of a genuine message of one of our topics.

        Raises:
            Forged: it is none.
            OSError: its certificate cannot be fetched now.
        """
        try:
            (told,) = objects(body)
        except ValueError as fault:
            raise Forged(str(fault)) from None
        fields = _SIGNED.get(words(told.get("Type")))
        if fields is None or told.get("TopicArn") not in self._topics:
            raise Forged("a type that is not known, or a topic that is not on our list")
        if told.get("SignatureVersion") != "2":
            raise Forged("SignatureVersion is not 2; set that attribute of the topic")
        said = ""
        for name in fields:
            value = told.get(name)
            if value is None and name == "Subject":
                continue
            if not isinstance(value, str):
                raise Forged(f"{name} is missing")
            said += f"{name}\n{value}\n"
        try:
            signature = b64decode(words(told.get("Signature")), validate=True)
            self._key(words(told.get("SigningCertURL"))).verify(
                signature, said.encode("utf-8", "surrogatepass"), padding.PKCS1v15(), SHA256()
            )
        except (InvalidSignature, ValueError) as fault:
            raise Forged(f"its signature is not good ({type(fault).__name__})") from None
        return told

    def _key(self, url: str) -> rsa.RSAPublicKey:
        parts = urlsplit(url)
        here = parts.scheme == "https" and HOST.fullmatch(parts.netloc)
        if not here or not PATH.fullmatch(parts.path) or parts.query:
            raise Forged("SigningCertURL is not of SNS")
        now = dt.datetime.now(dt.UTC)
        known = self._keys.get(url)
        if known is None or known[1] < now:
            certificate = x509.load_pem_x509_certificate(self._fetch(url))
            key = certificate.public_key()
            if not isinstance(key, rsa.RSAPublicKey):
                raise Forged("its certificate holds no RSA key")
            if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                raise Forged("its certificate is not valid today")
            if len(self._keys) > 20:
                self._keys.clear()
            known = self._keys[url] = (key, certificate.not_valid_after_utc)
        return known[0]

    def confirm(self, told: dict[str, Any]) -> None:
        """Say yes to a subscription of a topic of ours, verified before.

        Raises:
            Forged: its address is none that does that.
            OSError: SNS does not answer now.
        """
        url = words(told.get("SubscribeURL"))
        asked = parse_qs(urlsplit(url).query)
        if urlsplit(url).path not in ("", "/") or asked.get("Action") != ["ConfirmSubscription"]:
            raise Forged("SubscribeURL does not confirm a subscription")
        if asked.get("TopicArn") != [told["TopicArn"]]:
            raise Forged("SubscribeURL is of another topic")
        self._fetch(url)


def reports(told: dict[str, Any], keys: Keys) -> list[Report]:
    """What a verified notification says of our mails; of others it is silent."""
    try:
        (said,) = objects(words_of(told).encode("utf-8", "replace"))
    except ValueError:
        return []
    mail = inside(said, "mail")
    kind = words(said.get("eventType") or said.get("notificationType")).lower()
    found = []
    for word, class_, code, diagnostic, to, name in _said(kind, said):
        evidence = f"{name or words(told.get('MessageId'))}:{to}"
        report = Report(NAME, evidence, word, class_=class_, code=code, diagnostic=diagnostic)
        named = _about(report, mail, keys, to)
        if named is not None:
            found.append(named)
    return found


def words_of(told: dict[str, Any]) -> str:
    """The message inside an envelope."""
    message = told.get("Message")
    return message if isinstance(message, str) else ""


Said = tuple[Kind, Class | None, str | None, str, str, str]


def _said(kind: str, said: dict[str, Any]) -> list[Said]:
    """(kind, class, code, diagnostic, recipient, id) of each recipient."""
    told = inside(said, {"deliverydelay": "deliveryDelay"}.get(kind, kind))
    name = words(told.get("feedbackId"))
    if kind == "bounce":
        return [_bounced(told, each, name) for each in _people(told, "bouncedRecipients")]
    if kind == "complaint":
        if words(told.get("complaintFeedbackType")) in ("not-spam", "auth-failure"):
            return []
        people = _people(told, "complainedRecipients")
        return [("complained", None, None, "", words(p.get("emailAddress")), name) for p in people]
    mail = words(inside(said, "mail").get("messageId"))
    if kind == "delivery":
        addresses = told.get("recipients")
        response = words(told.get("smtpResponse"))
        return [
            ("delivered", None, None, response, words(to), f"{mail}:delivered")
            for to in (addresses if isinstance(addresses, list) else [])[:50]
        ]
    if kind == "deliverydelay":
        return [
            ("delayed", None, words(p.get("status")) or None, words(p.get("diagnosticCode")),
             words(p.get("emailAddress")), f"{mail}:delayed:{words(told.get('timestamp'))}")
            for p in _people(told, "delayedRecipients")
        ]  # fmt: skip
    if kind == "reject":
        return [("bounced", "message", None, words(told.get("reason")), "", f"{mail}:reject")]
    return []


def _bounced(told: dict[str, Any], person: dict[str, Any], name: str) -> Said:
    code = words(person.get("status")) or None
    diagnostic = words(person.get("diagnosticCode")).partition("; ")[2] or words(
        person.get("diagnosticCode")
    )
    to = words(person.get("emailAddress"))
    subtype = words(told.get("bounceSubType"))
    if subtype == "UnsubscribedRecipient":
        return ("left", None, None, diagnostic, to, name)
    class_ = _SUBTYPES.get(subtype)
    if class_ is None:
        class_ = classify(code, diagnostic)
        if words(told.get("bounceType")) != "Permanent" and class_ == "hard":
            class_ = "soft"
    return ("bounced", class_, code, diagnostic, to, name)


def _people(told: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = told.get(name)
    return (
        [each for each in found if isinstance(each, dict)][:50] if isinstance(found, list) else []
    )


def _about(report: Report, mail: dict[str, Any], keys: Keys, to: str) -> Report | None:
    headers = mail.get("headers")
    named = {
        words(each.get("name")).lower(): words(each.get("value"))
        for each in (headers if isinstance(headers, list) else [])[:200]
        if isinstance(each, dict)
    }
    message_id = named.get("message-id") or inside(mail, "commonHeaders").get("messageId")
    return about(report, keys, mail.get("source"), message_id=message_id, to=to)
