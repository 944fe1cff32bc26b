"""The bytes of one SMTP connection: lines out, replies in, waits that end, and one way to close.

A reply counts only while one is awaited. Anything else that comes, and any fault, ends the channel
at once and for good; ``fault`` then says why. Runs on asyncio and on uvloop.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from typing import Any, cast

from tasks.send.outcome import Kind, NotSent, Stage, before_the_dot
from tasks.send.relay import Relay, is_loopback_address
from tasks.send.reply import RawReply, Reply, ReplyReader


class Channel(asyncio.Protocol):
    """One connection to one relay, without knowledge of the conversation.

    ``stage`` is the last stage entered; ``extensions`` what EHLO offered, keyword to parameters.
    """

    __slots__ = (
        "_last_words",
        "_left",
        "_loop",
        "_paused",
        "_poll",
        "_reader",
        "_replies",
        "_timer",
        "_transport",
        "_until",
        "_waiter",
        "_wanted",
        "extensions",
        "fault",
        "relay",
        "stage",
    )

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.stage = Stage.CONNECT
        self.extensions: dict[str, str] = {}
        self.fault: str | None = None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = _Nowhere()
        self._reader = ReplyReader()
        self._replies: list[RawReply] = []
        self._left = 0  # answers that a wait may leave outstanding
        self._wanted = 1  # the greeting, which may come before anybody waits for it
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0
        self._paused = False
        self._poll: select.poll | None = None
        self._last_words: RawReply | None = None

    # Speaking and hearing.

    def say(self, line: bytes, answers: int) -> None:
        """Write at once; ``answers`` replies are awaited from here on."""
        self._replies = []
        self._wanted = answers
        if self.fault is not None:
            return
        try:
            self._transport.write(line)
        except (OSError, RuntimeError):
            self.close("the connection was closed under the write")

    async def heard(self, seconds: float, *, left: int = 0) -> list[RawReply]:
        """The replies awaited; fewer only together with a fault, a silence of so long included.

        With `left` it returns when no more than so many are outstanding; a later call waits on.
        """
        self._left = left
        if self._wanted > left and self.fault is None:
            await self._pause(seconds)
        return self._replies

    async def drained(self, seconds: float) -> None:
        """Wait until the kernel has taken all that was written, or for a fault."""
        if self._paused and self.fault is None:
            await self._pause(seconds)

    async def command(
        self, stage: Stage, line: bytes, *, good: int = 2
    ) -> tuple[Reply | None, NotSent | None]:
        """Say one line; the reply, and a refusal unless its first digit is ``good``."""
        self.stage = stage
        self.say(line, 1)
        replies = await self.heard(self.relay.timeouts.command)
        if not replies:
            return None, self.unanswered(stage)
        reply = Reply.of(replies[0])
        if reply.code // 100 == good:
            return reply, None if self.fault is None else self.unanswered(stage)
        return reply, before_the_dot(stage, reply)

    def unanswered(self, stage: Stage) -> NotSent:
        """The fault as an outcome; a 421 that nobody asked for still says to slow down."""
        cause = self.fault or "no reply"
        if self._last_words is None:
            return NotSent(stage, None, cause)
        reply = Reply.of(self._last_words)
        kind = Kind.SLOW_DOWN if reply.code == 421 else Kind.DEFERRED
        return NotSent(stage, reply, cause, kind)

    # The connection below.

    async def connect(self, context: ssl.SSLContext | None) -> None:
        """Connect, through TLS from the first byte if a context is given.

        Raises:
            OSError: no connection, or (``ssl.SSLError``) no TLS that can be trusted.
            TimeoutError: neither in time.
        """
        async with asyncio.timeout(self.relay.timeouts.connect):
            await self._loop.create_connection(
                lambda: self,
                self.relay.host,
                self.relay.port,
                ssl=context,
                server_hostname=None if context is None else self.relay.host,
            )

    async def encrypt(self, context: ssl.SSLContext) -> None:
        """Go on through TLS, after STARTTLS was agreed.

        Raises:
            OSError: no TLS that can be trusted, or the connection was lost on the way.
        """
        try:
            upgraded = await self._loop.start_tls(
                self._transport,
                self,
                context,
                server_hostname=self.relay.host,
                ssl_handshake_timeout=self.relay.timeouts.connect,
            )
        except (RuntimeError, TypeError) as error:
            raise ConnectionError("the connection was closed under the handshake") from error
        if upgraded is None:
            raise ConnectionError("the connection was closed under the handshake")
        self._stand_on(upgraded)

    @property
    def is_private(self) -> bool:
        """True if nobody on the way can read: TLS, or the other end is this machine."""
        if self._transport.get_extra_info("ssl_object") is not None:
            return True
        peer = self._transport.get_extra_info("peername")
        return isinstance(peer, tuple) and is_loopback_address(str(peer[0]))

    def readable(self) -> bool:
        """True if bytes or a hang-up lie in the kernel, not yet seen by the event loop."""
        return self._poll is not None and bool(self._poll.poll(0))

    def close(self, cause: str) -> None:
        """Close at once, dropping what is unsent; the first cause stays."""
        if self.fault is None:
            self.fault = cause
            self._transport.abort()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        self._wake()

    # Waits.

    async def _pause(self, seconds: float) -> None:
        self._waiter = self._loop.create_future()
        self._until = self._loop.time() + seconds
        # One timer outlives many waits: set anew only where this wait would end before it fires.
        if self._timer is None or self._timer.when() > self._until:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._until, self._ring)
        try:
            await self._waiter
        except BaseException:
            self.close("the wait was cancelled")
            raise
        finally:
            self._waiter = None

    def _ring(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        # uvloop's clock has milliseconds and may ring within the last one.
        if self._loop.time() < self._until - 0.001:
            self._timer = self._loop.call_at(self._until, self._ring)
        else:
            self.close("no reply in time" if self._wanted else "the relay reads no more")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _stand_on(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        # Writes go to the kernel at once; what it does not take is waited for.
        transport.set_write_buffer_limits(high=0)

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; not called again by STARTTLS."""
        self._stand_on(cast(asyncio.Transport, transport))
        socket: Any = transport.get_extra_info("socket")
        if socket is not None:
            self._poll = select.poll()
            self._poll.register(socket.fileno(), select.POLLIN)
        if self.fault is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take replies that are awaited; anything beyond them ends the connection."""
        if self.fault is not None:
            return
        for reply in self._reader.feed(data):
            if not self._wanted:
                self._last_words = reply
                return self.close("the relay spoke out of turn")
            self._replies.append(reply)
            self._wanted -= 1
            if reply.code == 421:
                return self.close("the relay closes the channel (421)")
        if self._reader.garbage is not None:
            self.close(f"the relay sent {self._reader.garbage}")
        elif not self._wanted:
            if self._reader.pending:
                self.close("the relay spoke out of turn")
            self._wake()
        elif self._wanted <= self._left:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, by whichever side; an awaited reply will not come."""
        how = "" if exc is None else f" ({type(exc).__name__})"
        self.close(f"the relay closed the connection{how}")

    def pause_writing(self) -> None:
        """Note that the kernel takes no more for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on with what was written; a wait for replies goes on too."""
        self._paused = False
        if not self._wanted:
            self._wake()


class _Nowhere(asyncio.Transport):
    """Stands in until there is a connection: takes nothing, can be closed."""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        raise RuntimeError("not connected")

    def abort(self) -> None:
        return None
