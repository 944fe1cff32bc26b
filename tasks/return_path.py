"""The return path of a mail: an address that names the mail and its try, and that nobody can make up.

`b+TOKEN@bounces.example`, after VERP (cr.yp.to/proto/verp.txt): whoever cannot deliver a mail writes
there, and which mail it was needs no reading of what they write. TOKEN is signed by the key ring of the
mails' links, so that only who has had the mail can answer for it. It stands in the envelope alone: the
octets of a mail are the same with it and without.

The same token travels as a header to providers which put a return path of their own (`HEADERS`) and
take the header out again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from tasks.tokens import KEY_ID, Keys, read_plain, sign_plain

PREFIX: Final = "b+"
NAME: Final = "dripfleet"
"""What providers call the token, in what they tell of a mail."""
MOST: Final = 20
"""Tokens that are tried in one text; who writes more is not asked further."""

# Prefix, key, 16 octets and MAC are at most 64 characters, as a local part (RFC 5321 §4.5.3.1.1).
_IN_TEXT: Final = re.compile(
    rf"(?<![a-z0-9]){KEY_ID}\.[a-z2-7]{{26}}\.[a-z2-7]{{26}}(?![a-z0-9])", re.ASCII | re.IGNORECASE
)
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})+", re.ASCII)

# SMTP fields of providers that come back with what they tell: Postmark's and Mailgun's manuals of their
# SMTP endpoints, Twilio's of X-SMTPAPI. SES tells the envelope's sender, and needs none.
HEADERS: Final = {
    "postmark": f"X-PM-KeepID: true\r\nX-PM-Metadata-{NAME}: {{token}}\r\n",
    "sendgrid": f'X-SMTPAPI: {{{{"unique_args": {{{{"{NAME}": "{{token}}"}}}}}}}}\r\n',
    "mailgun": f'X-Mailgun-Variables: {{{{"{NAME}": "{{token}}"}}}}\r\n',
}
PROVIDERS: Final = (*HEADERS, "ses")


@dataclass(frozen=True, slots=True)
class Try:
    """Which mail, which try of it (ids as of `message`), and to which address: its `tag`."""

    message: int
    epoch: int
    tag: bytes


def tag(recipient: str) -> bytes:
    """Four octets by which an address is told from the one that its subscriber has since."""
    return sha256(recipient.strip().lower().encode("utf-8", "replace")).digest()[:4]


def token(keys: Keys, message_id: int, epoch: int, recipient: str) -> str:
    """Sign a try."""
    octets = message_id.to_bytes(8, "big") + epoch.to_bytes(4, "big") + tag(recipient)
    return sign_plain(keys, "return", octets)


def address(keys: Keys, domain: str, message_id: int, epoch: int, recipient: str) -> str:
    """The envelope's sender of a try."""
    return f"{PREFIX}{token(keys, message_id, epoch, recipient)}@{domain}"


def header(keys: Keys, provider: str | None, message_id: int, epoch: int, recipient: str) -> bytes:
    """The header fields that a provider brings back; none where it needs none."""
    form = HEADERS.get(provider or "")
    signed = token(keys, message_id, epoch, recipient)
    return form.format(token=signed).encode() if form else b""


def find(keys: Keys, text: str) -> Try | None:
    """The try that the first genuine token in a text names; None: there is none.

    Args:
        keys: of the tokens.
        text: an address in whatever form hosts give it back (upper case, SRS, BATV), a header, a value.
    """
    for count, found in enumerate(_IN_TEXT.finditer(text[:10_000])):
        if count >= MOST:
            break
        octets = read_plain(keys, "return", found[0])
        if octets is not None and len(octets) == 16:
            message, epoch = int.from_bytes(octets[:8], "big"), int.from_bytes(octets[8:12], "big")
            # What Postgres has no number for was never signed here; a key may have been another's.
            return Try(message, epoch, octets[12:]) if message < 2**63 and epoch < 2**31 else None
    return None


def checked_domain(given: str) -> str:
    """A domain that return paths may have, in small letters.

    Raises:
        ValueError: it is none.
    """
    domain = given.strip().rstrip(".").lower()
    if len(domain) > 190 or not _DOMAIN.fullmatch(domain):
        raise ValueError(
            f"{given[:64]!r} is no domain for a return path: expected one with an MX of yours, such as"
            " bounces.example.com"
        )
    return domain
