"""One SMTP connection whose stage is always known (RFC 5321), on asyncio or uvloop.

::

    open ─→ idle ─offer→ (MAIL RCPT DATA, 354, body) ─→ at its dot ─finish→ (dot, reply) ─→ idle
              ↑────────────── refused: RSET ──┘               └─abandon→ closed

``finish`` may announce the mail that follows: its envelope leaves in the write of the dot (RFC 2920
§3.1), ``offer`` then begins with the replies to it, and what cannot be offered any more costs the
connection, since there is no RSET inside DATA. No two dots share a write, nor a dot and its body.

The caller's ARM stands between ``offer`` and ``finish``: until ``finish`` writes the dot no server may deliver the mail. Outcomes are values; what raises is misuse.
A connection that has met a fault is closed at once and never used again (``usable``).
"""

from __future__ import annotations

import re
import ssl
import time
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tasks.crashpoint import reached
from tasks.errors import Misconfigured
from tasks.send.channel import Channel
from tasks.send.envelope import Envelope, WireBody, wire_body
from tasks.send.introduction import introduce
from tasks.send.outcome import (
    Accepted,
    Deferred,
    InDoubt,
    Kind,
    NotSent,
    Outcome,
    Refused,
    Stage,
    after_the_dot,
    before_the_dot,
)
from tasks.send.relay import Relay, Timeouts
from tasks.send.reply import RawReply, Reply

__all__ = [
    "OFFERED",
    "SMTPUTF8_UNSUPPORTED",
    "TOO_LARGE",
    "Accepted",
    "Connection",
    "Deferred",
    "Envelope",
    "InDoubt",
    "Kind",
    "NotSent",
    "Offered",
    "Outcome",
    "Refused",
    "Relay",
    "Reply",
    "Stage",
    "Timeouts",
    "WireBody",
    "boottime",
    "wire_body",
]

SMTPUTF8_UNSUPPORTED: Final = "smtputf8_unsupported"
"""The cause of a mail refused by us, because its relay does not offer what its recipient needs."""

TOO_LARGE: Final = "larger_than_the_relay_takes"
"""The cause of a mail refused by us, because its relay said beforehand that it is too large."""

_ENVELOPE = (Stage.MAIL, Stage.RCPT, Stage.DATA)
_HELO_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-fIPv:.]+\]")
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Seconds on the clock that goes on while the machine is suspended."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True)
class Offered:
    """The body is written and the connection stands before its dot."""


OFFERED: Final = Offered()


class _Standing(Enum):
    IDLE = "idle"
    BUSY = "busy"
    AT_DOT = "at its dot"


class Connection:
    """A conversation with one relay; at most one mail in it at any time."""

    __slots__ = ("_ahead", "_channel", "_dirty", "_forsaken", "_largest", "_standing")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._ahead: Envelope | None = None
        self._forsaken = False
        self._dirty = False
        self._standing = _Standing.IDLE
        size = channel.extensions.get("SIZE", "")
        self._largest = int(size) if size.isascii() and size.isdigit() else 0  # 0: not said

    @classmethod
    async def open(
        cls, relay: Relay, *, helo_name: str, ssl_context: ssl.SSLContext | None = None
    ) -> Connection | NotSent:
        """Connect, greet, EHLO, STARTTLS and AUTH, as the relay's URL asks.

        Raises:
            Misconfigured: for a HELO name that is no host name, or a CA file that cannot be read.
        """
        if not _HELO_NAME.fullmatch(helo_name):
            raise Misconfigured(
                "The HELO name is no host name; expected the public name of this sender, "
                "such as mail.example.com"
            )
        if ssl_context is None and relay.security != "none":
            ssl_context = relay.ssl_context()
        channel = Channel(relay)
        try:
            refusal = await introduce(channel, helo_name, ssl_context)
        except BaseException:
            channel.close("the opening was broken off")
            raise
        if refusal is None:
            return cls(channel)
        channel.close("the opening was refused")
        return refusal

    @property
    def stage(self) -> Stage:
        """The last stage entered.

        It becomes ``dot`` before the dot is written, so a caller whose ``finish`` was cancelled
        reads off it whether a copy may be out.
        """
        return self._channel.stage

    @property
    def usable(self) -> bool:
        """True if the next mail may be offered."""
        return self._channel.fault is None and self._standing is _Standing.IDLE

    @property
    def at_dot(self) -> bool:
        """True if a mail stands before its dot and nothing has gone wrong since it was offered."""
        return self._channel.fault is None and self._standing is _Standing.AT_DOT

    @property
    def fault(self) -> str | None:
        """Why the connection is closed, in words free of addresses; None while it is open."""
        return self._channel.fault

    @property
    def pipelining(self) -> bool:
        """True if the relay takes the envelope in one write (RFC 2920)."""
        return "PIPELINING" in self._channel.extensions

    async def offer(self, mail: Envelope, body: WireBody) -> Offered | NotSent:
        """Write envelope and body, and stop before the dot.

        A mail that needs SMTPUTF8 where it is not offered, or is larger than the relay takes
        (RFC 1870), is refused before a byte of it is written; the connection stays fit for the next.

        Raises:
            RuntimeError: if the connection is not idle, or announced another mail.
            ValueError: if the body is not what ``wire_body`` makes: its end would be a dot.
        """
        # A dot inside the body would deliver the mail before its ARM.
        if body[-2:] != b"\r\n" or body[:3] == b".\r\n" or body.find(b"\r\n.\r\n") >= 0:
            raise ValueError("the body must come from wire_body: CRLF at its end, dots stuffed")
        if self._ahead is not None and self._ahead is not mail:
            raise RuntimeError("another mail was announced, and only that one may follow")
        self._leave(_Standing.IDLE)
        channel = self._channel
        channel.stage = Stage.MAIL
        cause = self._unfit(mail, body)
        if cause and channel.fault is None:
            self._standing = _Standing.IDLE
            return NotSent(Stage.MAIL, None, cause, Kind.REFUSED)
        refusal = await self._rset() if self._dirty else None
        if refusal is None:
            refusal = await self._envelope(mail, body)
        if refusal is None:
            channel.stage = Stage.BODY
            channel.say(body, 0)
            await channel.drained(channel.relay.timeouts.body)
            if channel.fault is None:
                self._standing = _Standing.AT_DOT
                return OFFERED
            refusal = channel.unanswered(Stage.BODY)
        self._standing = _Standing.IDLE
        return refusal

    async def finish(
        self,
        timeout: float,
        *,
        not_after: float | None = None,
        following: tuple[Envelope, WireBody] | None = None,
    ) -> Outcome:
        """Write the dot and wait up to ``timeout`` seconds for its reply.

        Args:
            timeout: seconds; RFC 5321 §4.5.3.2.6 asks for 600.
            not_after: the latest ``boottime()`` at which the dot may still be written; past it the
                connection is closed and the mail is NotSent.
            following: the next mail, to be announced with the dot where the relay pipelines and
                takes it. Then it, or none, is the next that may be offered here.

        Raises:
            RuntimeError: if no mail stands before its dot.
        """
        self._leave(_Standing.AT_DOT)
        channel = self._channel
        if channel.fault is None:
            if not_after is not None and boottime() > not_after:
                channel.close("the dot came too late after ARM")
            # Bytes that came before the dot are no answer to it, and a hang-up needs no doubt.
            elif channel.readable():
                channel.close("the relay spoke or hung up before the dot")
        if channel.fault is not None:
            self._standing = _Standing.IDLE
            return channel.unanswered(Stage.BODY)
        channel.stage = Stage.DOT
        if following is not None and self.pipelining and not self._unfit(*following):
            self._ahead = following[0]
            sender, recipient = self._lines(*following)
            channel.say(f".\r\n{sender}{recipient}DATA\r\n".encode(), 1 + len(_ENVELOPE))
        else:
            channel.say(b".\r\n", 1)
        reached("dot.written")
        replies = await channel.heard(timeout, left=len(_ENVELOPE) if self._ahead else 0)
        self._standing = _Standing.IDLE
        if self._forsaken:
            channel.close("the next mail went elsewhere")
        if not replies:
            return InDoubt(Stage.DOT, None, channel.fault or "no reply")
        outcome = after_the_dot(Reply.of(replies[0]))
        if isinstance(outcome, InDoubt):
            channel.close(outcome.cause)
        return outcome

    def forsake(self) -> None:
        """What was announced goes another way: this connection ends with the reply it waits for."""
        self._ahead, self._forsaken = None, True

    async def reset(self) -> NotSent | None:
        """RSET, so that the next mail starts afresh; None if the relay agreed.

        ``offer`` does this by itself after a refusal.

        Raises:
            RuntimeError: if the connection is not idle; inside DATA there is no RSET.
        """
        if self._ahead is not None:
            raise RuntimeError("a mail was announced, and inside DATA there is no RSET")
        self._leave(_Standing.IDLE)
        refusal = await self._rset()
        self._standing = _Standing.IDLE
        return refusal

    def abandon(self) -> None:
        """Close without the dot and without a word: inside DATA the relay drops the mail."""
        self._channel.close("closed by us")

    async def quit(self, timeout: float = 5.0) -> None:
        """Say QUIT if the connection is idle, wait briefly, close; never raises."""
        if self.usable and self._ahead is None:
            self._standing = _Standing.BUSY
            self._channel.say(b"QUIT\r\n", 1)
            await self._channel.heard(timeout)
        self.abandon()

    def _leave(self, standing: _Standing) -> None:
        if self._standing is not standing:
            raise RuntimeError(
                f"the connection is {self._standing.value}, where it must be {standing.value}"
            )
        self._standing = _Standing.BUSY

    async def _rset(self) -> NotSent | None:
        self._dirty = False
        _, refusal = await self._channel.command(Stage.MAIL, b"RSET\r\n")
        if refusal is None:
            return None
        self._channel.close("RSET was refused")
        # A refused RSET says nothing of the mail that was to follow.
        kind = Kind.SLOW_DOWN if refusal.kind is Kind.SLOW_DOWN else Kind.DEFERRED
        return NotSent(Stage.MAIL, refusal.reply, refusal.cause, kind)

    def _unfit(self, mail: Envelope, body: WireBody) -> str:
        """Why this relay cannot be given a mail, in a word; empty if it can."""
        if mail.needs_smtputf8 and "SMTPUTF8" not in self._channel.extensions:
            return SMTPUTF8_UNSUPPORTED
        return TOO_LARGE if 0 < self._largest < len(body) else ""

    def _lines(self, mail: Envelope, body: WireBody) -> tuple[str, str]:
        """MAIL and RCPT."""
        extensions = self._channel.extensions
        size = f" SIZE={len(body)}" if "SIZE" in extensions else ""
        if "8BITMIME" in extensions and not body.isascii():
            size += " BODY=8BITMIME"
        if mail.needs_smtputf8:
            size = f" SMTPUTF8{size}"
        return f"MAIL FROM:<{mail.sender}>{size}\r\n", f"RCPT TO:<{mail.recipient}>\r\n"

    async def _envelope(self, mail: Envelope, body: WireBody) -> NotSent | None:
        channel = self._channel
        timeout = channel.relay.timeouts.command
        if self._ahead is not None:
            self._ahead = None
            # The first of them was the dot's.
            replies = (await channel.heard(timeout))[1:]
            return self._judged(replies)
        sender, recipient = self._lines(mail, body)
        if "PIPELINING" in channel.extensions:
            channel.say(f"{sender}{recipient}DATA\r\n".encode(), 3)
            replies = await channel.heard(timeout)
        else:
            replies = []
            for stage, line in zip(_ENVELOPE, (sender, recipient, "DATA\r\n"), strict=True):
                channel.stage = stage
                channel.say(line.encode(), 1)
                replies += await channel.heard(timeout)
                if channel.fault is not None or not _agrees(stage, replies[-1]):
                    break
        return self._judged(replies)

    def _judged(self, replies: list[RawReply]) -> NotSent | None:
        """What the replies to MAIL, RCPT and DATA come to; None: a body may follow."""
        channel = self._channel
        for stage, reply in zip(_ENVELOPE, replies, strict=False):
            channel.stage = stage
            if not _agrees(stage, reply):
                if reply.code // 100 not in (4, 5) or replies[-1].code // 100 not in (4, 5):
                    # It may be waiting for a body, which must not come.
                    channel.close("the relay went on after a refusal, or gave no sense")
                self._dirty = True
                return before_the_dot(stage, Reply.of(reply))
        if channel.fault is None:
            return None
        channel.stage = _ENVELOPE[min(len(replies), 2)]
        return channel.unanswered(channel.stage)


def _agrees(stage: Stage, reply: RawReply) -> bool:
    return reply.code == 354 if stage is Stage.DATA else reply.code // 100 == 2
