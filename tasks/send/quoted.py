"""Text as the body of a MIME part: 7bit where that will do, else quoted-printable (RFC 2045 §6.7).

A text comes whole, or in the pieces that a template yields. Of a piece that is the same in every
mail (`Fixed`) the whole lines were encoded beforehand, and only what lies between them is encoded
now. Both ways give the same octets, since quoted-printable knows nothing beyond a line.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from typing import NamedTuple

from tasks.errors import Permanent

SHORTEST_FIXED = 80  # characters of whole lines, below which encoding them again is as cheap
LONGEST_PLAIN = 78  # octets of a line without CRLF that goes out unquoted, RFC 5322 §2.1.1

_HALF = re.compile("[\r\ud800-\udfff]")
_PLAIN = bytes([9, 10, 13, *range(32, 127)])


class Part(NamedTuple):
    """A body as it travels: its transfer encoding, and octets that end in CRLF."""

    encoding: str
    octets: bytes


class Fixed(str):
    """Text of a template that is the same in every mail; made once, when the template is compiled.

    Attributes:
        worthwhile: whether it has whole lines enough; else it is text like any other.
        head: up to its first line end, LF included: what ends the line that others began.
        lines: the whole lines behind it, as octets with CRLF.
        quoted: the same, quoted-printable.
        plain: whether `lines` may go out as they are.
        tail: what begins the line that others go on with.
    """

    __slots__ = ("head", "lines", "plain", "quoted", "tail", "worthwhile")

    head: str
    lines: bytes
    plain: bool
    quoted: bytes
    tail: str
    worthwhile: bool

    def __new__(cls, text: str) -> Fixed:
        """Encode the whole lines of `text`."""
        fixed = super().__new__(cls, text)
        head, _, rest = text.partition("\n")
        lines, _, tail = rest.rpartition("\n")
        # A lone CR may be half of a line end whose other half another piece brings; half a
        # character is told when a mail comes to it.
        fixed.worthwhile = len(lines) >= SHORTEST_FIXED and not _HALF.search(text)
        if not fixed.worthwhile:
            return fixed
        fixed.head, fixed.tail = f"{head}\n", tail
        fixed.lines = utf8(f"{lines}\n".replace("\n", "\r\n"), "the body")
        fixed.plain = is_plain(fixed.lines)
        fixed.quoted = _quoted(fixed.lines)
        return fixed


def encoded(text: str, boundary: str) -> Part:
    """The part for a whole text; `boundary` must not be read into a part that is not quoted.

    Raises:
        Permanent: it cannot be written as UTF-8.
    """
    octets = _in_lines(text)
    if is_plain(octets) and boundary.encode() not in octets:
        return Part("7bit", octets)
    return Part("quoted-printable", _quoted(octets))


def encoded_pieces(pieces: Iterable[str], boundary: str) -> Part:
    """The part for `"".join(pieces)`, octet for octet what `encoded` gives."""
    laid: list[bytes | Fixed] = []
    line: list[str] = []
    plain = True
    for piece in pieces:
        if type(piece) is Fixed and piece.worthwhile:
            line.append(piece.head)
            octets = _in_lines("".join(line))
            plain = plain and piece.plain and is_plain(octets)
            laid += (octets, piece)
            line = [piece.tail]
        else:
            line.append(piece)
    rest = "".join(line)
    if rest or not laid:
        octets = _in_lines(rest)
        plain = plain and is_plain(octets)
        laid.append(octets)
    if plain:
        whole = b"".join([each.lines if type(each) is Fixed else each for each in laid])  # type: ignore[misc]
        if boundary.encode() not in whole:
            return Part("7bit", whole)
    quoted = [each.quoted if type(each) is Fixed else _quoted(each) for each in laid]  # type: ignore[arg-type]
    return Part("quoted-printable", b"".join(quoted))


def is_plain(octets: bytes) -> bool:
    """Whether whole lines may go out as they are: short, ASCII, nothing that is lost on the way."""
    return (
        octets.isascii()
        and not octets.translate(None, _PLAIN)
        # Blanks at the end of a line are lost on the way, quoted they are not.
        and b" \r\n" not in octets
        and b"\t\r\n" not in octets
        and max(map(len, octets.split(b"\r\n"))) <= LONGEST_PLAIN
    )


def utf8(text: str, what: str) -> bytes:
    """The octets of a text; `what` names it where it holds half a character."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Permanent(f"{what} holds half a character (a lone surrogate); correct it") from None


def _in_lines(text: str) -> bytes:
    """Octets in lines that end in CRLF, the last one too, whatever ended them before."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.endswith("\n"):
        text += "\n"
    return utf8(text.replace("\n", "\r\n"), "the body")


def _quoted(octets: bytes) -> bytes:
    # The first line end decides how b2a_qp breaks lines; here all of them are CRLF.
    return binascii.b2a_qp(octets, istext=True)
