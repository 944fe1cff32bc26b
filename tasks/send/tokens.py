"""Signed tokens: which mail was answered, readable by nobody who would forge one."""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping

from tasks.errors import Permanent


def unsubscribe_token(secret: bytes, key_id: str, message_id: int) -> str:
    """`KEY.ID.MAC`, e.g. `k1.AAAAAAAAAfQ.Zx…`: 37 characters that need no escaping in a URL.

    KEY names the secret (so that a retry signs with the key it began with), ID is the message's
    row id, 8 octets big-endian, MAC the first 128 bits of HMAC-SHA256 over `unsubscribe`, KEY and
    ID; both in base64url without padding. It says which mail was answered, and expires never.
    """
    if not re.fullmatch(r"[a-z0-9]{1,8}", key_id):
        raise Permanent("a key id is 1 to 8 lower-case letters or digits; rename the key")
    number = message_id.to_bytes(8, "big")
    return f"{key_id}.{_b64(number)}.{_b64(_token_mac(secret, key_id, number))}"


def read_unsubscribe_token(secrets: Mapping[str, bytes], token: str) -> int | None:
    """The message id of a genuine token; None for anything else. `secrets` maps key ids."""
    found = re.fullmatch(r"([a-z0-9]{1,8})\.([\w-]{11})\.([\w-]{22})", token, re.ASCII)
    if not found or found[1] not in secrets:
        return None
    number = urlsafe_b64decode(found[2] + "=")
    mac = _token_mac(secrets[found[1]], found[1], number)
    # Compared as text: the last character of base64 has bits that no octet holds.
    genuine = f"{found[1]}.{_b64(number)}.{_b64(mac)}"
    return int.from_bytes(number, "big") if hmac.compare_digest(genuine, token) else None


def _token_mac(secret: bytes, key_id: str, number: bytes) -> bytes:
    return hmac.digest(secret, b"unsubscribe\0" + key_id.encode() + b"\0" + number, "sha256")[:16]


def _b64(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()
