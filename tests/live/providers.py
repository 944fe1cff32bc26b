"""Providers as a test plays them: their documented payloads, signed as they sign, with keys of its own."""

from __future__ import annotations

import datetime as dt
import hmac
import itertools
import json
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tasks import return_path
from tasks.tokens import Keys
from workers.edge.providers import sendgrid

FOLDER = Path(__file__).parents[1] / "data/webhooks"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:bounces"
CERTIFICATE = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123abcd.pem"
MAILGUN = "key-of-the-tests"
USER, PASSWORD, PATH = "postmark", "a password", "a1b2c3d4e5f6g7h8"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Sent:
    """A mail that the fleet sent."""

    message: int
    epoch: int
    to: str
    message_id: str


@dataclass
class Request:
    """What a provider would post."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Providers:
    """All four, with their keys; `fetched` are the addresses of SNS that were asked."""

    keys: Keys
    rsa_key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    ec_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    fetched: list[str] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """What the edge has to know of them."""
        public = self.ec_key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        return {
            "DRIPFLEET_HOOK_SES_TOPICS": TOPIC,
            "DRIPFLEET_HOOK_SENDGRID_KEY": b64encode(public).decode(),
            "DRIPFLEET_HOOK_MAILGUN_KEY": MAILGUN,
            "DRIPFLEET_HOOK_POSTMARK_USER": USER,
            "DRIPFLEET_HOOK_POSTMARK_PASSWORD": PASSWORD,
            "DRIPFLEET_HOOK_POSTMARK_PATH": PATH,
        }

    def fetch(self, url: str) -> bytes:
        """As `ses.fetch`, without a network."""
        self.fetched.append(url)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.rsa_key.public_key())
            .serial_number(1)
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .sign(self.rsa_key, SHA256())
        )
        return made.public_bytes(Encoding.PEM)

    def request(self, provider: str, kind: str, sent: Sent) -> Request:
        """Of a kind (`bounce`, `complaint`, `delivery`), about this mail."""
        body = self._filled(f"{provider}-{kind}", sent)
        match provider:
            case "ses":
                return Request("/hooks/ses", self.signed_sns({"Message": body}))
            case "sendgrid":
                return self.signed_sendgrid(body.encode())
            case "mailgun":
                return Request("/hooks/mailgun", self._signed_mailgun(body))
        told = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return Request(f"/hooks/postmark/{PATH}", body.encode(), {"authorization": f"Basic {told}"})

    def _filled(self, name: str, sent: Sent) -> str:
        text = (FOLDER / f"{name}.json").read_text()
        token = return_path.token(self.keys, sent.message, sent.epoch, sent.to)
        for written, value in {
            "<VERP>": f"b+{token}@bounces.example.com",
            "<TOKEN>": token,
            "<MESSAGE-ID>": sent.message_id,
            "<BARE-ID>": sent.message_id.strip("<>"),
            "<TO>": sent.to,
            "<ID>": f"{next(_numbers)}",
            "4323372036854775807": f"{next(_numbers)}",
            '"ID": 42': f'"ID": {next(_numbers)}',
        }.items():
            text = text.replace(written, value)
        return text

    def signed_sns(self, told: Mapping[str, Any], *, version: str = "2") -> bytes:
        """An envelope of SNS."""
        envelope: dict[str, Any] = {
            "Type": "Notification",
            "MessageId": f"sns-{next(_numbers)}",
            "TopicArn": TOPIC,
            "Timestamp": "2026-03-02T09:00:04.000Z",
            "SigningCertURL": CERTIFICATE,
            "SignatureVersion": version,
            **told,
        }
        names = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]
        if envelope["Type"] != "Notification":
            names = [
                "Message",
                "MessageId",
                "SubscribeURL",
                "Timestamp",
                "Token",
                "TopicArn",
                "Type",
            ]
        said = "".join(f"{name}\n{envelope[name]}\n" for name in names if name in envelope)
        signature = self.rsa_key.sign(said.encode(), padding.PKCS1v15(), SHA256())
        return json.dumps(envelope | {"Signature": b64encode(signature).decode()}).encode()

    def signed_sendgrid(self, body: bytes, at: float | None = None) -> Request:
        """A batch of events."""
        stamp = str(int(time.time() if at is None else at))
        signature = self.ec_key.sign(stamp.encode() + body, ec.ECDSA(SHA256()))
        headers = {
            sendgrid.SIGNATURE: b64encode(signature).decode(),
            sendgrid.TIMESTAMP: stamp,
        }
        return Request("/hooks/sendgrid", body, headers)

    def _signed_mailgun(self, body: str, at: float | None = None) -> bytes:
        stamp = str(int(time.time() if at is None else at))
        token = f"{next(_numbers):050d}"
        made = hmac.new(MAILGUN.encode(), f"{stamp}{token}".encode(), "sha256").hexdigest()
        return (
            body.replace("<NOW>", stamp)
            .replace("<ONCE>", token)
            .replace("<SIGNATURE>", made)
            .encode()
        )
