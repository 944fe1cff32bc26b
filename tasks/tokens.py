"""Signed tokens: which row was meant, readable by nobody who would forge one.

`KEY.ID.MAC`, e.g. `k1.AAAAAAAAAfQ.Zx…`: 37 characters (48 with a link) that need no escaping in a URL.
KEY names the secret (so that a retry signs with the key it began with), ID is one or two row ids, 8
octets each, big-endian, MAC the first 128 bits of HMAC-SHA256 over purpose, KEY and ID; both in
base64url without padding. A token says which mail was answered, serves one purpose, and expires never.

In the local part of an address a token is of small letters and digits alone (base32, RFC 4648 §6,
without padding), since some hosts change the case of what they return: `sign_plain`, `read_plain`.
"""

from __future__ import annotations

import hmac
import re
from base64 import b32decode, b32encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from tasks.errors import Misconfigured

Purpose = Literal["unsubscribe", "click", "open", "confirm", "return"]
KEY_ID: Final = "[a-z0-9]{1,8}"
_TOKEN: Final = re.compile(rf"({KEY_ID})\.([\w-]{{11}}|[\w-]{{22}})\.([\w-]{{22}})", re.ASCII)
PLAIN: Final = rf"({KEY_ID})\.([a-z2-7]{{2,32}})\.([a-z2-7]{{26}})"
"""Pattern of a token of small letters and digits: key, what is signed, MAC."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets of tokens by id. `signing` signs what is new; the others open what they signed."""

    signing: str
    secrets: Mapping[str, bytes]

    @classmethod
    def of(cls, signing: str, secret: str, old: str = "") -> Keys:
        """Read them from settings: `old` is `ID=SECRET ID=SECRET …`, the newest first.

        Raises:
            Misconfigured: an id is none, stands twice, or has no secret.
        """
        secrets = {signing: secret.encode()}
        for each in old.split():
            key_id, equals, value = each.partition("=")
            if not equals or not value or not re.fullmatch(KEY_ID, key_id) or key_id in secrets:
                raise Misconfigured(
                    "DRIPFLEET_SECRET_TOKEN_OLD: expected ID=SECRET, divided by spaces, each id once and"
                    " none that of DRIPFLEET_TOKEN_KEY; correct it"
                )
            secrets[key_id] = value.encode()
        return cls(signing, secrets)

    def others(self) -> list[Keys]:
        """The same, each time with another one that signs: for mails that were begun under it."""
        return [Keys(each, self.secrets) for each in self.secrets if each != self.signing]


def sign(keys: Keys, purpose: Purpose, *ids: int) -> str:
    """A token for one or two row ids."""
    return _signed(keys.secrets[keys.signing], keys.signing, purpose, ids)


def read(keys: Keys, purpose: Purpose, token: str) -> tuple[int, ...] | None:
    """The ids of a genuine token of this purpose; None for anything else."""
    found = _TOKEN.fullmatch(token)
    if not found or found[1] not in keys.secrets:
        return None
    octets = urlsafe_b64decode(found[2] + "=" * (-len(found[2]) % 4))
    mac = _mac(keys.secrets[found[1]], found[1], purpose, octets)
    # Compared as text: the last character of base64 has bits that no octet holds.
    genuine = f"{found[1]}.{_b64(octets)}.{_b64(mac)}"
    if not hmac.compare_digest(genuine, token):
        return None
    return tuple(int.from_bytes(octets[at : at + 8], "big") for at in range(0, len(octets), 8))


def sign_plain(keys: Keys, purpose: Purpose, octets: bytes) -> str:
    """A token for at most 20 octets, of small letters, digits and dots."""
    mac = _mac(keys.secrets[keys.signing], keys.signing, purpose, octets)
    return f"{keys.signing}.{_b32(octets)}.{_b32(mac)}"


def read_plain(keys: Keys, purpose: Purpose, token: str) -> bytes | None:
    """What a genuine token of `sign_plain` holds, in whatever case it came; None for anything else."""
    found = re.fullmatch(PLAIN, token.lower(), re.ASCII)
    if not found or found[1] not in keys.secrets:
        return None
    try:
        octets = b32decode(found[2].upper() + "=" * (-len(found[2]) % 8))
    except ValueError:
        return None
    mac = _mac(keys.secrets[found[1]], found[1], purpose, octets)
    genuine = f"{found[1]}.{_b32(octets)}.{_b32(mac)}"
    return octets if hmac.compare_digest(genuine, found[0]) else None


@lru_cache(maxsize=64)
def _signed(secret: bytes, key_id: str, purpose: Purpose, ids: tuple[int, ...]) -> str:
    # A mail asks for its own three times: for the header, for its templates, for a page to leave by.
    octets = b"".join([each.to_bytes(8, "big") for each in ids])
    return f"{key_id}.{_b64(octets)}.{_b64(_mac(secret, key_id, purpose, octets))}"


def _mac(secret: bytes, key_id: str, purpose: Purpose, octets: bytes) -> bytes:
    mac = _begun(secret, key_id, purpose).copy()
    mac.update(octets)
    return mac.digest()[:16]


@lru_cache(maxsize=64)
def _begun(secret: bytes, key_id: str, purpose: Purpose) -> hmac.HMAC:
    # Begun once and copied: `hmac.digest` sets the key up for every link of every mail, and lets go
    # of the interpreter each time.
    return hmac.new(secret, purpose.encode() + b"\0" + key_id.encode() + b"\0", "sha256")


def _b64(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def _b32(octets: bytes) -> str:
    return b32encode(octets).rstrip(b"=").decode().lower()
