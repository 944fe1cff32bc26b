"""What goes into an SMTP transaction: the two addresses and the bytes, made safe for the wire."""

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
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class Envelope:
    """Sender and recipient of one transaction, as ``local@domain`` (RFC 5321 §4.1.2).

    The sender may be empty: the null reverse-path.

    Raises:
        Permanent: for anything that could end the command early or that needs SMTPUTF8; the
            sentence names the fault and its place, never the address.
    """

    sender: str
    recipient: str

    def __post_init__(self) -> None:
        for role, address in (("sender", self.sender), ("recipient", self.recipient)):
            if _ADDRESS.fullmatch(address) and len(address) <= 254:
                continue
            if fault := _fault(role, address):
                raise Permanent(
                    f"The {role} address {fault}; expected local@domain in printable ASCII of at "
                    "most 254 characters. Correct the address and retry the message."
                )


def _fault(role: str, address: str) -> str | None:
    if not address:
        return None if role == "sender" else "is empty"
    names = {"\r": "a carriage return", "\n": "a line feed", "\0": "a NUL", " ": "a space"}
    for place, char in enumerate(address, start=1):
        if char in names:
            return f"holds {names[char]} at character {place}"
        if not char.isascii():
            return f"holds a character outside ASCII at character {place} (SMTPUTF8 is not spoken)"
        if not char.isprintable():
            return f"holds a control character at character {place}"
        if char in "<>":
            return f"holds an angle bracket at character {place}"
    if len(address) > 254:
        return f"is {len(address)} characters long"
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
    _check_lines(content)
    if b"\r\n." in content:
        content = content.replace(b"\r\n.", b"\r\n..")
    if content.startswith(b"."):
        content = b"." + content
    return WireBody(content)


def _check_lines(content: bytes) -> None:
    start, most = 0, MAX_LINE + 2
    # From window to window rather than line by line: a mail of 4 kB has 100 lines and 5 windows.
    while len(content) - start > most:
        end = content.rfind(b"\n", start, start + most)
        if end < 0:
            raise Permanent(
                f"The mail has a line of more than {MAX_LINE} octets at octet {start}; expected "
                "folded headers and an encoded body. Correct the template and retry the message."
            )
        start = end + 1
