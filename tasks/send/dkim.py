"""DKIM signatures (RFC 6376, RFC 8463), and the keys that make them.

A mail is signed when it is prepared for the wire, after its hash was taken: `content_sha256` is of
what we say, and a rotated key changes nothing of that. `t=` is the message's `frozen_at` and both
algorithms are deterministic, so a retry with the same key has the same signature too.

The header is canonicalized relaxed, the body simple: our bodies hold nothing that a relay would
fold, and simple costs a hash where relaxed walks every line.
"""

from __future__ import annotations

import re
import stat
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from tasks.errors import Misconfigured
from tasks.send.compliance import RELAY_SIGNS

Key: TypeAlias = RSAPrivateKey | Ed25519PrivateKey

# Each name once for the header that is there, and once more so that nobody can add another one on
# the way (RFC 6376 §8.15); a name that is not there at all can then not be added either.
SIGNED: Final = (
    *("From", "From", "To", "To", "Cc", "Subject", "Subject", "Date", "Date", "Reply-To"),
    *("Message-ID", "Message-ID", "List-Unsubscribe", "List-Unsubscribe"),
    *("List-Unsubscribe-Post", "List-Unsubscribe-Post", "Auto-Submitted"),
    *("MIME-Version", "MIME-Version", "Content-Type", "Content-Type"),
    *("Content-Transfer-Encoding", "Content-Transfer-Encoding"),
)
RSA_BITS: Final = (2048, 4096)  # what RFC 8301 §3.2 asks of signers, and what verifiers must take

_PLACE = re.compile(
    r"(?P<domain>(?:[a-z0-9-]{1,63}\.)+[a-z0-9-]{2,63})/"
    r"(?P<selector>[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*)=(?P<file>\S+)"
)
_BLANKS = re.compile(rb"[ \t]+")
_EXAMPLE = "example.com/s2026=/etc/dripfleet/s2026.pem"


class Signer:
    """One key, as a domain and a selector publish it.

    Args:
        domain: what signs, `d=`.
        selector: `s=`; verifiers ask for `SELECTOR._domainkey.DOMAIN`.
        key: RSA of 2 048 to 4 096 bits, or Ed25519.
    """

    def __init__(self, domain: str, selector: str, key: Key) -> None:
        self.domain = domain
        self.selector = selector
        self._key = key
        self.algorithm = "rsa-sha256" if isinstance(key, RSAPrivateKey) else "ed25519-sha256"
        self._before = (
            f"DKIM-Signature: v=1; a={self.algorithm}; c=relaxed/simple;\r\n"
            f" d={domain}; s={selector};\r\n t="
        ).encode()

    @property
    def record(self) -> str:
        """The TXT record to publish at `SELECTOR._domainkey.DOMAIN`."""
        public = self._key.public_key()
        if isinstance(self._key, RSAPrivateKey):
            kind, form, encoding = "rsa", PublicFormat.SubjectPublicKeyInfo, Encoding.DER
        else:
            kind, form, encoding = "ed25519", PublicFormat.Raw, Encoding.Raw
        octets = public.public_bytes(encoding, form)
        return f"v=DKIM1; k={kind}; p={b64encode(octets).decode()}"

    def header(self, digests: Digests, at: datetime) -> bytes:
        """The `DKIM-Signature` of a mail, folded, with its CRLF.

        Args:
            digests: of the mail.
            at: its `frozen_at`, aware.
        """
        unsigned = b"%s%d;\r\n bh=%s;\r\n%s\r\n b=" % (
            self._before,
            int(at.timestamp()),
            digests.body,
            _NAMES,
        )
        # Itself without its value, and without a line end (RFC 6376 §3.7).
        own = b"dkim-signature:" + unsigned[len(b"DKIM-Signature: ") :].replace(b"\r\n ", b" ")
        signature = b64encode(self._sign(digests.headers + own))
        folded = b"\r\n ".join(signature[n : n + 72] for n in range(0, len(signature), 72))
        return b"%s%s\r\n" % (unsigned, folded)

    def _sign(self, octets: bytes) -> bytes:
        if isinstance(self._key, RSAPrivateKey):
            return self._key.sign(octets, PKCS1v15(), hashes.SHA256())
        # RFC 8463 §3: Ed25519 signs the hash, not the text.
        return self._key.sign(sha256(octets).digest())


@dataclass(frozen=True, slots=True)
class Digests:
    """What every signature of one mail signs: the body's hash in base64, the canonical headers."""

    body: bytes
    headers: bytes

    @classmethod
    def of(cls, octets: bytes) -> Digests:
        """Digest a mail: CRLF alone, no header twice, ending in CRLF."""
        head, _, body = octets.partition(b"\r\n\r\n")
        # Simple (RFC 6376 §3.4.3): empty lines at the end do not count, one line end does.
        while body.endswith(b"\r\n\r\n"):
            body = body[:-2]
        found: dict[bytes, bytes] = {}
        for line in head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b"\t").split(b"\r\n"):
            name, _, value = line.partition(b":")
            found[name.strip().lower()] = _BLANKS.sub(b" ", value).strip()
        pieces = []
        for name in _LOWER:
            # The second of a name that is there once signs that there is no second one.
            if name in found:
                pieces.append(b"%s:%s\r\n" % (name, found.pop(name)))
        return cls(b64encode(sha256(body or b"\r\n").digest()), b"".join(pieces))


class Keyring:
    """The signers of a process, by the domain that they sign for.

    Raises:
        Misconfigured: a key cannot be used; the sentence names the file and the next move.
    """

    def __init__(self, signers: Iterable[Signer]) -> None:
        self._by_domain: dict[str, list[Signer]] = {}
        for signer in signers:
            self._by_domain.setdefault(signer.domain, []).append(signer)

    @classmethod
    def of(cls, places: str) -> Keyring:
        """Read the keys of `DOMAIN/SELECTOR=FILE …`, parted by blanks; none for `relay` or nothing."""
        return cls([] if places == RELAY_SIGNS else [read_key(each) for each in places.split()])

    def __iter__(self) -> Iterator[Signer]:
        return (signer for signers in self._by_domain.values() for signer in signers)

    def of_sender(self, address: str) -> list[Signer]:
        """Who signs for an address: the keys of its domain, else of the nearest one above it.

        So every signature is aligned with From, as DMARC asks (RFC 7489 §3.1.1, relaxed).
        """
        domain = address.rpartition("@")[2].lower()
        while domain:
            if domain in self._by_domain:
                return self._by_domain[domain]
            domain = domain.partition(".")[2]
        return []

    def sign(self, octets: bytes, sender: str, at: datetime) -> bytes:
        """The signatures to go before a mail, one a key of its sender; empty where there is none.

        Args:
            octets: the mail as `content.compose` makes it.
            sender: the address in From.
            at: `frozen_at`, aware.
        """
        signers = self.of_sender(sender)
        if not signers:
            return b""
        digests = Digests.of(octets)
        return b"".join([signer.header(digests, at) for signer in signers])


def read_key(place: str) -> Signer:
    """The signer of `DOMAIN/SELECTOR=FILE`; FILE is a private key as PEM, for its owner alone.

    Raises:
        Misconfigured: it is not of that form, or the file holds no key that may sign.
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        raise Misconfigured(
            f"DRIPFLEET_DKIM_KEYS holds {place!r}; expected DOMAIN/SELECTOR=FILE in lower case,"
            f" such as {_EXAMPLE}"
        )
    file = Path(found["file"])
    whose = f"the DKIM key {file} of {found['domain']}"
    try:
        mode = file.stat().st_mode
        octets = file.read_bytes()
    except OSError as error:
        raise Misconfigured(
            f"{whose} cannot be read ({type(error).__name__}); give the worker's user a file of its"
            " own, mode 0600"
        ) from None
    if not stat.S_ISREG(mode) or stat.S_IMODE(mode) & 0o077:
        raise Misconfigured(
            f"{whose} may be read by others (mode {stat.S_IMODE(mode):04o}); expected 0600: run"
            f" `chmod 600 {file}`"
        )
    try:
        key = load_pem_private_key(octets, None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise Misconfigured(
            f"{whose} is no private key in PEM without a passphrase; make one with"
            " `openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048`"
        ) from None
    if isinstance(key, RSAPrivateKey):
        if not RSA_BITS[0] <= key.key_size <= RSA_BITS[1]:
            raise Misconfigured(
                f"{whose} has {key.key_size} bits; expected RSA of {RSA_BITS[0]} to {RSA_BITS[1]}"
            )
    elif not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured(f"{whose} is neither RSA nor Ed25519, and DKIM knows no other")
    return Signer(found["domain"], found["selector"], key)


def _folded_names() -> bytes:
    lines = [""]
    for name in SIGNED:
        if len(lines[-1]) + len(name) > 70:
            lines.append("")
        lines[-1] += f"{name}:"
    return (" h=" + "\r\n ".join(lines)[:-1] + ";").encode()


_NAMES: Final = _folded_names()
_LOWER: Final = tuple(name.lower().encode() for name in SIGNED)
