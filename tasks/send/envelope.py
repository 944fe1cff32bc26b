"""What goes into an SMTP transaction: the two addresses and the bytes, made safe for the wire.

A domain outside ASCII always travels as A-labels (IDNA 2008), so that any relay takes it; only a
local part outside ASCII needs SMTPUTF8 (RFC 6531), and it stays as its subscriber gave it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from tasks.errors import Permanent

WireBody = NewType("WireBody", bytes)
"""A mail as it travels after 354: CRLF only, dot-stuffed once, ends with CRLF, no final dot."""

MAX_LINE = 998
_PART = r"[!-;=?A-~]+"
_ADDRESS = re.compile(rf"{_PART}@{_PART}")
_WIDE = re.compile(rf"[!-;=?A-~\x80-\U0010ffff]+@{_PART}")  # RFC 6531 §3.3, the local part alone
_DOT_LINE = re.compile(rb"\r\n\.")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class Envelope:
    """Sender and recipient of one transaction, as ``local@domain`` (RFC 5321 §4.1.2).

    The sender may be empty: the null reverse-path. The recipient's domain is put into ASCII.

    Raises:
        Permanent: for anything that could end the command early, and for a sender outside ASCII;
            the sentence names the fault and its place, never the address.
    """

    sender: str
    recipient: str

    def __post_init__(self) -> None:
        if not self.recipient.isascii():
            object.__setattr__(self, "recipient", ascii_domain(self.recipient))
        for role, address in (("sender", self.sender), ("recipient", self.recipient)):
            if _ADDRESS.fullmatch(address) and len(address) <= 254:
                continue
            if fault := _fault(role, address):
                raise Permanent(
                    f"The {role} address {fault}; expected local@domain, printable and of at "
                    "most 254 octets. Correct the address and retry the message."
                )

    @property
    def needs_smtputf8(self) -> bool:
        """True if only a relay that offers SMTPUTF8 can be given this recipient."""
        return not self.recipient.isascii()


def ascii_domain(address: str) -> str:
    """The address with its domain as A-labels; as it was where the domain cannot be one."""
    local, at, domain = address.rpartition("@")
    if domain.isascii():
        return address
    import idna  # late: large tables, and hardly a mail needs them

    try:
        return f"{local}{at}{idna.encode(domain, uts46=True).decode('ascii')}"
    except (idna.IDNAError, UnicodeError):
        return address


def _fault(role: str, address: str) -> str | None:
    if not address:
        return None if role == "sender" else "is empty"
    at = address.rfind("@")
    names = {"\r": "a carriage return", "\n": "a line feed", "\0": "a NUL", " ": "a space"}
    for place, char in enumerate(address, start=1):
        if char in names:
            return f"holds {names[char]} at character {place}"
        if not char.isascii() and (role == "sender" or place > at):
            return f"holds a character outside ASCII at character {place}, where none may stand"
        if not char.isprintable():
            return f"holds a control character at character {place}"
        if char in "<>":
            return f"holds an angle bracket at character {place}"
    octets = len(address.encode("utf-8"))
    if octets > 254:
        return f"is {octets} octets long"
    if _WIDE.fullmatch(address):
        return None
    return "has no single @ between a local part and a domain"


def wire_body(content: bytes) -> WireBody:
    """Make content fit to follow 354: line ends normalised, dot-stuffed, ended by CRLF.

    Content that is to be signed must come normalised already: what changes here breaks a DKIM
    signature. Stuffing is done once: never feed the result in again (RFC 5321 §4.5.2).

    Raises:
        Permanent: if a line is longer than 998 octets (RFC 5322 §2.1.1).
    """
    lines = content.count(b"\r\n")
    if content.count(b"\n") != lines or content.count(b"\r") != lines:
        content = _BARE.sub(b"\r\n", content)
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    if (place := long_line_at(content)) is not None:
        raise Permanent(
            f"The mail has a line of more than {MAX_LINE} octets at octet {place}; expected "
            "folded headers and an encoded body. Correct the template and retry the message."
        )
    return stuffed(content)


def stuffed(content: bytes) -> WireBody:
    """`wire_body` for content that `content.check` has passed: nothing is looked for again.

    Such content has CRLF for every line end and at its own, and no line that is too long.
    """
    # By a pattern: `bytes.replace` takes eight times as long for a word of three octets.
    content = _DOT_LINE.sub(b"\r\n..", content)
    if content.startswith(b"."):
        content = b"." + content
    return WireBody(content)


def long_line_at(content: bytes) -> int | None:
    """Where the first line of more than 998 octets begins, in what ends with a line end."""
    start, most = 0, MAX_LINE + 2
    # From window to window rather than line by line: a mail of 4 kB has 100 lines and 5 windows.
    while len(content) - start > most:
        end = content.rfind(b"\n", start, start + most)
        if end < 0:
            return start
        start = end + 1
    return None
