"""What an SMTP server says: bytes to replies, bounded, whatever the bytes are (RFC 5321 §4.2)."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_LINE = 2_048
MAX_REPLY = 16_384
MAX_TEXT = 500

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?=\s|$)", re.ASCII)


class RawReply(NamedTuple):
    """One whole reply as it came: its code, and each line without line end."""

    code: int
    lines: tuple[bytes, ...]


class Reply(NamedTuple):
    """One reply, fit to be stored.

    ``text`` is a single printable line of at most 500 characters. It often repeats the address of
    the subscriber, so it belongs into the attempt's row and never into a log.
    """

    code: int
    enhanced: str | None
    text: str

    @classmethod
    def of(cls, raw: RawReply) -> Reply:
        """Read the enhanced status code (RFC 3463, RFC 2034 §4) off the text and clean the rest."""
        first, *more = (line[4:].decode("utf-8", "replace") for line in raw.lines)
        found = _ENHANCED.match(first)
        # RFC 2034 §4 wants both classes equal; where they differ the basic code is the one to trust.
        if found is None or int(found[1]) != raw.code // 100:
            return cls(raw.code, None, cleaned(" ".join((first, *more))))
        enhanced = found[0]
        rest = " ".join(line.removeprefix(enhanced) for line in (first, *more))
        return cls(raw.code, enhanced, cleaned(rest))


def cleaned(text: str) -> str:
    """One printable line of at most 500 characters: no control, no bidi or line separator."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text[: 4 * MAX_TEXT])
    return " ".join(text.split())[:MAX_TEXT]


class ReplyReader:
    """Splits a stream of bytes into replies; never raises, whatever it is fed.

    ``garbage`` is None, or the sentence that says why the stream can no longer be read as SMTP;
    from then on every further byte is ignored. How the bytes are cut into chunks changes nothing.
    """

    __slots__ = ("_lines", "_rest", "_size", "garbage")

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0
        self.garbage: str | None = None

    @property
    def pending(self) -> bool:
        """True while part of a reply has come and its end has not."""
        return bool(self._rest or self._lines)

    def feed(self, data: bytes) -> list[RawReply]:
        """Take more bytes and return the replies that they complete, in order."""
        if self.garbage is not None:
            return []
        replies: list[RawReply] = []
        if self._rest:
            data = self._rest + data
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            # A lone LF ends a line too: some servers send it, and it is only read here.
            cut = end - 1 if end > start and data[end - 1] == 13 else end
            reply = self._line(data[start:cut])
            start = end + 1
            if self.garbage is not None:
                return replies
            if reply is not None:
                replies.append(reply)
        self._rest = data[start:]
        if len(self._rest) > MAX_LINE:
            self.garbage = f"a line of more than {MAX_LINE} bytes"
        return replies

    def _line(self, line: bytes) -> RawReply | None:
        if len(line) > MAX_LINE:
            self.garbage = f"a line of more than {MAX_LINE} bytes"
            return None
        code, mark = line[:3], line[3:4]
        if len(code) < 3 or not code.isdigit() or not 50 <= code[0] <= 53 or mark not in b" -":
            self.garbage = "a line that is no SMTP reply"
            return None
        if not self._lines and mark != b"-":
            return RawReply(int(code), (line,))
        if self._lines and self._lines[0][:3] != code:
            self.garbage = "a reply whose lines carry different codes"
            return None
        self._size += len(line)
        if self._size > MAX_REPLY:
            self.garbage = f"a reply of more than {MAX_REPLY} bytes"
            return None
        self._lines.append(line)
        if mark == b"-":
            return None
        lines, self._lines, self._size = tuple(self._lines), [], 0
        return RawReply(int(code), lines)
