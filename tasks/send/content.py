"""The bytes of one mail, from its words and the facts of its envelope; byte-identical each time.

Pure: no clock, no random boundary, no host name. `Date` is the message's `frozen_at`, the MIME
boundary comes from its effect key, the Message-ID and the token are given. Dots are not stuffed
here (the transport does that), and lines end in CRLF only.

Every mail carries `Auto-Submitted: auto-generated` (RFC 3834 §5): together with `List-Unsubscribe`
it keeps vacation responders silent. `Precedence: bulk` says the same outside of any standard
(RFC 2076 §3.9 discourages it) and is left out.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from hashlib import sha256
from urllib.parse import quote

from tasks.errors import Permanent
from tasks.send.attached import NONE, Files
from tasks.send.envelope import MAX_LINE, ascii_domain, long_line_at
from tasks.send.list_headers import list_headers
from tasks.send.quoted import Part, encoded, utf8
from tasks.send.render import Rendered

HEADERS = frozenset(
    """Auto-Submitted Content-Transfer-Encoding Content-Type Date From List-Unsubscribe
    List-Unsubscribe-Post MIME-Version Message-ID Subject To""".split()
)

PIECE = 2047  # octets, the most that hashlib takes without letting go of the interpreter
OCTETS_A_WORD = 39  # of an encoded word: `List-…: ` and 64 characters stay within 76

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?=.{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
_WIDE_ATOM = r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]|[^\x00-\x7f])+"  # RFC 6532 §3.2, UTF8-non-ascii
_WIDE_ADDRESS = re.compile(rf"{_WIDE_ATOM}(?:\.{_WIDE_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MESSAGE_ID = re.compile(rf"<{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*>")
_NOT_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_WORDS = re.compile(r"[!-~]{1,60}(?: [!-~]{1,60})*")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]*")  # RFC 3986 §2.3, what needs no escaping in a URL
_QUOTABLE = re.compile(r"[ -~]+")


@dataclass(frozen=True, slots=True)
class Sender:
    """Who a stream writes as; `unsubscribe_mailto` is a bare address."""

    name: str
    address: str
    postal_address: str
    unsubscribe_mailto: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is fixed about one message before its words are.

    `rfc_message_id` with its angle brackets; `frozen_at` aware; `boundary_key` is the effect key;
    `unsubscribe_token` as made by the function of that name; `one_click` is the edge's address that
    takes the reader off by a POST, for mails that one can leave.
    """

    rfc_message_id: str
    to_address: str
    frozen_at: datetime
    boundary_key: bytes
    unsubscribe_token: str
    one_click: str | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """Headers and body before DKIM, and their sha256 (32 bytes), which ARM freezes."""

    octets: bytes
    sha256: bytes


def compose(rendered: Rendered, *, message: Facts, sender: Sender, files: Files = NONE) -> Content:
    """One mail of words that are rendered, and of the files that go with it, checked by `check`.

    Raises:
        Permanent: a header would hold a line end or control character, an address is not one
            that plain SMTP carries, or a text cannot be written as UTF-8.
    """
    boundary = boundary_of(message.boundary_key)
    return assemble(
        rendered.subject,
        encoded(rendered.text, boundary),
        None if rendered.html is None else encoded(rendered.html, boundary),
        message=message,
        sender=sender,
        files=files,
    )


def assemble(
    subject: str,
    text: Part,
    html: Part | None,
    *,
    message: Facts,
    sender: Sender,
    files: Files = NONE,
) -> Content:
    """One mail of bodies that are encoded, with `boundary_of(message.boundary_key)` kept out.

    Raises:
        Permanent: as `compose` does.
    """
    if not _MESSAGE_ID.fullmatch(message.rfc_message_id) or len(message.rfc_message_id) > 250:
        raise Permanent("a Message-ID is not of the form <left@domain>; check the sender's domain")
    if message.frozen_at.tzinfo is None:
        raise Permanent("frozen_at has no zone, and Date needs one; pass an aware datetime")
    headers = [
        ("Date", _date(message.frozen_at.replace(microsecond=0))),
        ("From", _from(sender)),
        ("To", _recipient(message.to_address)),
        ("Message-ID", message.rfc_message_id),
        ("Subject", _unstructured(subject, "the subject")),
        *list_headers(unsubscribe_url(sender, message.unsubscribe_token), message.one_click),
        ("Auto-Submitted", "auto-generated"),
        ("MIME-Version", "1.0"),
    ]
    boundary = boundary_of(message.boundary_key)
    if html is None:
        kind, encoding, body = "text/plain; charset=utf-8", text.encoding, [text.octets]
    else:
        kind, encoding = f'multipart/alternative;\r\n boundary="{boundary}"', ""
        body = [
            _part_head(boundary, "plain", text.encoding),
            text.octets,
            *_page(boundary, html, files.shown),
            f"\r\n--{boundary}--\r\n".encode(),
        ]
    if files.attached:
        kind, encoding, body = _mixed(boundary, kind, encoding, body, files.attached)
    headers.append(("Content-Type", kind))
    if encoding:
        headers.append(("Content-Transfer-Encoding", encoding))
    head = "".join([f"{name}: {value}\r\n" for name, value in headers])
    octets = b"".join([f"{head}\r\n".encode(), *body])
    check(octets, headers)
    return Content(octets, _digest(octets))


def _digest(octets: bytes) -> bytes:
    # In pieces of less than 2 KiB: for more hashlib lets go of the interpreter, and the delivery
    # loop and a thread that renders would take it from each other for every mail.
    made = sha256()
    view = memoryview(octets)
    for start in range(0, len(octets), PIECE):
        made.update(view[start : start + PIECE])
    return made.digest()


def check(octets: bytes, expected: Sequence[tuple[str, str]]) -> None:
    """Read a mail back and hold exactly the headers meant, in order, once each, and no others.

    `expected` are names and values as composed. Also held: names from `HEADERS`, CRLF alone, no
    NUL, lines of 998 octets at most, and ASCII but for a `To` of which more was meant: its mail
    travels under SMTPUTF8 alone (RFC 6532 §3.4). Raises `Permanent`; it quotes names, never values.
    """
    # Unfolded, each header has its own line end and no other; then what was meant must be what is
    # there, up to the empty line.
    head = "".join([f"{name}: {value}\r\n" for name, value in expected])
    names = [name for name, _ in expected]
    if (
        head.count("\r\n") - head.count("\r\n ") != len(names)
        or not octets.startswith(f"{head}\r\n".encode())
        or len(set(names)) != len(names)
        or not HEADERS.issuperset(names)
    ):
        strange = sorted({name for name in names if name not in HEADERS})
        raise Permanent(
            "the composed mail does not hold exactly the headers meant"
            f"{' (not allowed: ' + ', '.join(strange) + ')' if strange else ''}; it is not sent"
        )
    ends = octets.count(b"\n")
    if ends != octets.count(b"\r") or ends != octets.count(b"\r\n") or b"\0" in octets:
        raise Permanent("the composed mail holds a bare CR, LF or NUL; it is not sent")
    rest = octets
    if not rest.isascii():
        for name, value in expected:
            if name == "To" and not value.isascii():
                rest = rest.replace(f"To: {value}\r\n".encode(), b"", 1)
    if not rest.isascii() or long_line_at(octets) is not None:
        raise Permanent(
            f"the composed mail has a line of over {MAX_LINE} octets or raw 8-bit text;"
            " it is not sent"
        )


def _page(boundary: str, html: Part, shown: Sequence[bytes]) -> list[bytes]:
    """The html part, or with what it shows a multipart/related (RFC 2387)."""
    if not shown:
        return [_part_head(boundary, "html", html.encoding), html.octets]
    # What is kept out of every body is kept out with a letter before it, and neither begins the other.
    inner = f"r{boundary}"
    head = (
        f"\r\n--{boundary}\r\nContent-Type: multipart/related;\r\n"
        f' type="text/html"; boundary="{inner}"\r\n'
    )
    return [
        head.encode(),
        _part_head(inner, "html", html.encoding),
        html.octets,
        *_more(inner, shown),
    ]


def _mixed(
    boundary: str, kind: str, encoding: str, body: list[bytes], attached: Sequence[bytes]
) -> tuple[str, str, list[bytes]]:
    """A multipart/mixed of what there is and of files."""
    outer = f"m{boundary}"
    head = f"--{outer}\r\nContent-Type: {kind}\r\n"
    if encoding:
        head += f"Content-Transfer-Encoding: {encoding}\r\n"
    whole = [f"{head}\r\n".encode(), *body, *_more(outer, attached)]
    return f'multipart/mixed;\r\n boundary="{outer}"', "", whole


def _more(boundary: str, parts: Sequence[bytes]) -> list[bytes]:
    """Further parts, and the end."""
    pieces: list[bytes] = []
    for part in parts:
        pieces += (f"\r\n--{boundary}\r\n".encode(), part)
    return [*pieces, f"\r\n--{boundary}--\r\n".encode()]


def _part_head(boundary: str, kind: str, encoding: str) -> bytes:
    first = "" if kind == "plain" else "\r\n"
    return (
        f"{first}--{boundary}\r\nContent-Type: text/{kind}; charset=utf-8\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    ).encode()


@lru_cache(maxsize=256)
def _date(second: datetime) -> str:
    return format_datetime(second.astimezone(UTC))


def boundary_of(key: bytes) -> str:
    """A MIME boundary from the effect key; `=_` can never stand in quoted-printable text."""
    return "=_" + sha256(b"dripfleet boundary\0" + key).hexdigest()[:32]


def unsubscribe_url(sender: Sender, token: str) -> str:
    """`mailto:…?subject=unsubscribe%20TOKEN` (RFC 6068): for the header and the templates alike."""
    if _NOT_A_LINE.search(token):
        raise Permanent("an unsubscribe token holds a control character; make it anew")
    if not _UNRESERVED.fullmatch(token):
        token = quote(token, safe="")
    return f"mailto:{_mailto(sender.unsubscribe_mailto)}?subject=unsubscribe%20{token}"


@lru_cache(maxsize=64)
def _mailto(address: str) -> str:
    return quote(_address(address, "the sender's unsubscribe address"), safe="@")


@lru_cache(maxsize=64)
def _from(sender: Sender) -> str:
    """`"Name" <address>`; the name as encoded words where it is not ASCII."""
    address = _address(sender.address, "the sender's address")
    if len(sender.name) > 200:
        raise Permanent("the sender's name is over 200 characters long; make it shorter")
    name = _unstructured(sender.name, "the sender's name")
    # An encoded word does not work inside quotes, and nothing else should look like one there.
    if _QUOTABLE.fullmatch(sender.name) and "=?" not in sender.name:
        name = '"' + sender.name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{name} <{address}>" if len(name) < 60 else f"{name}\r\n <{address}>"


def _address(address: str, whose: str) -> str:
    """`address` if plain SMTP carries it: `dot-atom@host.name`, ASCII, RFC 5321 §4.5.3.1 lengths."""
    if len(address) > 254 or not _ADDRESS.fullmatch(address):
        raise Permanent(
            f"{whose} is not of the form name@host in ASCII, without spaces or line ends; correct it"
        )
    return address


def _recipient(address: str) -> str:
    """The subscriber's address for `To`: the domain in ASCII, the local part in UTF-8 if it must."""
    if address.isascii():
        return _address(address, "the subscriber's address")
    address = ascii_domain(address)
    # Half a character is not printable either, so what is left can be encoded.
    fit = address.isprintable() and _WIDE_ADDRESS.fullmatch(address)
    local = address.rpartition("@")[0]
    if not fit or len(local.encode()) > 64 or len(address.encode()) > 254:
        raise Permanent(
            "the subscriber's address is not of the form name@host, printable, without spaces"
            " or line ends; correct it"
        )
    return address


def _unstructured(text: str, what: str) -> str:
    """The value of a header of free text: as it is, folded, or as encoded words (RFC 2047)."""
    if not text or text.isspace():
        raise Permanent(f"{what} is empty; every mail needs one: correct it")
    if _NOT_A_LINE.search(text):
        raise Permanent(f"{what} holds a line end or a control character; take it out")
    if _WORDS.fullmatch(text) and "=?" not in text:
        return text if len(text) <= 66 else _folded(text)
    pieces, piece, octets = [], "", 0
    if len(whole := utf8(text, what)) <= OCTETS_A_WORD:
        return f"=?utf-8?b?{b64encode(whole).decode()}?="
    for character in text:
        width = len(character.encode())
        if octets + width > OCTETS_A_WORD:
            pieces.append(piece)
            piece, octets = "", 0
        piece += character
        octets += width
    pieces.append(piece)
    words = [f"=?utf-8?b?{b64encode(each.encode()).decode()}?=" for each in pieces]
    return _short("\r\n ".join(words), what)


def _folded(text: str) -> str:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= 66:
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return _short("\r\n ".join(lines), "the subject")


def _short(value: str, what: str) -> str:
    if len(value) > 4000:
        raise Permanent(f"{what} is over 4 000 octets long; make it shorter")
    return value
