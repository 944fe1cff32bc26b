"""Which e-mail addresses we can write to, in which spelling, and who they belong to.

A plain ASCII address is settled by one strict pattern; everything else goes to email-validator,
which knows internationalised domains and local parts (RFC 6531) and has a sentence for every fault.
Nothing here asks the DNS, nor whether a relay offers SMTPUTF8: that is known when a mail is sent.
"""

from __future__ import annotations

import hmac
import re
import unicodedata
from typing import Final

from tasks.errors import Permanent

MOST_OCTETS: Final = 254
"""Longest address that fits the envelope: RFC 5321 §4.5.3.1.3, a path less its brackets."""

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"(?!xn--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# RFC 5321 §4.1.2 without quoted strings and literals; the last label begins with a letter, so that
# 1.2.3.4 is no domain. Punycode (`xn--`) is left to email-validator, which decodes it.
_PLAIN: Final = re.compile(
    rf"((?=.{{1,64}}@){_ATOM}(?:\.{_ATOM})*)@((?:{_LABEL}\.)+(?!xn--)[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9]))"
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class RefusedAddress(Permanent):
    """An address that no mail can be sent to; its text is one sentence for the operator."""


def parse(text: str) -> str:
    """The address as it is stored and written to the envelope.

    The domain is lower-cased, and in ASCII (IDNA 2008); the part before the @ stays as it was
    given, since only its own server may say whether case matters there (RFC 5321 §2.4). Outside
    ASCII it is brought to NFC (RFC 6532 §3.1): one spelling, whichever keyboard made it.

    Raises:
        RefusedAddress: with one sentence that says what is wrong with it.
    """
    local, at, domain = text.rpartition("@")
    plain = f"{local}@{domain.lower()}"
    if len(plain) <= MOST_OCTETS and _PLAIN.fullmatch(plain):
        return plain
    if not text:
        raise RefusedAddress("the address is empty")
    if _CONTROL.search(text):
        raise RefusedAddress(
            "the address holds a line break, a tab, a NUL or another control character"
        )
    if " " in text:
        raise RefusedAddress("the address holds a space")
    if not at:
        raise RefusedAddress("the address has no @")
    if "." not in domain:
        raise RefusedAddress("the address has no dot after its @: expected a domain, example.com")
    return _parse_unusual(text)


def _parse_unusual(text: str) -> str:
    from email_validator import EmailNotValidError, validate_email

    try:
        found = validate_email(text, check_deliverability=False, allow_smtputf8=True)
    except EmailNotValidError as error:
        raise RefusedAddress(str(error).rstrip(".")) from None
    address = f"{found.local_part}@{found.ascii_domain}"
    if len(found.local_part.encode()) > 64:
        raise RefusedAddress("the address has more than 64 octets before its @")
    if len(address.encode()) > MOST_OCTETS:
        raise RefusedAddress(f"the address is longer than {MOST_OCTETS} octets")
    return address


def address_hmac(secret: bytes, address: str) -> bytes:
    """Who an address belongs to: 32 octets, HMAC-SHA256 of the parsed address without its case.

    Two spellings that differ in case only, or in how Unicode composes a letter, are one subscriber:
    lower case in ASCII, elsewhere NFC around simple case folding, letter for letter. Never the full
    folding: it takes `ß` for `ss`, which are two mailboxes. The key keeps a stolen list of
    suppressions from being tested against known addresses.
    """
    if address.isascii():
        return hmac.digest(secret, address.lower().encode("ascii"), "sha256")
    return hmac.digest(secret, _without_case(address).encode(), "sha256")


def _without_case(address: str) -> str:
    letters = (
        folded if len(folded := letter.casefold()) == 1 else letter.lower()
        for letter in unicodedata.normalize("NFC", address)
    )
    return unicodedata.normalize("NFC", "".join(letters))
