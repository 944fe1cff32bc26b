"""The identity of an effect: one step, one entry, one subscriber, one mail.

The sequence's version is deliberately not part of it: no edit can send the same step twice.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b32encode

from tasks.errors import Misconfigured

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def sequence_effect_key(
    sequence_key: str, subscriber_id: int, entry_no: int, step_id: str
) -> bytes:
    """The 32 octets that are unique over all messages that sequences ever wrote."""
    parts = ("sequence", sequence_key, str(subscriber_id), str(entry_no), step_id)
    return hashlib.sha256("\0".join(parts).encode()).digest()


def rfc_message_id(secret: bytes, effect_key: bytes, domain: str) -> str:
    """`<32 base32 characters@domain>`: the first 160 bits of an HMAC-SHA256 of the key.

    Deterministic, not to be guessed without the secret, and telling nothing of the subscriber.

    Raises:
        Misconfigured: the domain, from the sender's address, is no host name.
    """
    if not _DOMAIN.fullmatch(domain):
        raise Misconfigured(
            "the domain for Message-IDs is no host name; correct DRIPFLEET_SENDER_ADDRESS"
        )
    mac = hmac.digest(secret, b"message-id\0" + effect_key, "sha256")
    return f"<{b32encode(mac[:20]).decode().lower()}@{domain}>"
