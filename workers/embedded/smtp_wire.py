"""One connection of the sink: bytes in, answers out, and the ways in which an answer goes wrong."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from workers.embedded.faults import Fault, Faults
from workers.embedded.ledger import Spool

GARBAGE = b"\x00\xffthis is no reply\r\n"


@dataclass
class Desk:
    """What all conversations of a sink share.

    Attributes:
        spool: where accepted mail goes.
        faults: the plan.
        latency: seconds between the dot and its reply; the mail is in the ledger before them.
        tls: offers STARTTLS.
        login: user and password; then AUTH is asked for (after STARTTLS, where there is one).
        max_bytes: the SIZE advertised and held to.
        smtputf8: offers SMTPUTF8 (RFC 6531); without it an address outside ASCII is refused.
        mechanisms: of AUTH, those of PLAIN and LOGIN that are offered.
    """

    spool: Spool
    faults: Faults = field(default_factory=Faults)
    latency: float = 0.0
    tls: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None
    max_bytes: int = 10 * 1024 * 1024
    smtputf8: bool = True
    mechanisms: tuple[bytes, ...] = (b"PLAIN", b"LOGIN")
    connections: int = 0
    open: set[Wire] = field(default_factory=set)


class Wire(asyncio.Protocol):
    """One connection: what comes is taken in order, answers leave in order, late or wrong if told."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray()
        self.out: list[bytes] = []
        self.blocked = False  # a late answer holds back all that comes after it
        self.closing = False
        self.secure = False
        self.known = desk.login is None
        self.greeted = False
        self.awaits_login = b""  # the mechanism whose next line is awaited
        self.login_user: bytes | None = None  # of AUTH LOGIN, between its two lines
        self.tasks: set[asyncio.Task[None]] = set()
        self._forget()

    def _forget(self) -> None:
        """Back to no envelope, as RSET does."""
        self.sender: str | None = None
        self.utf8 = False
        self.rcpts: list[str] = []
        self.in_body = False
        self.searched = 0
        self.body_begun = False
        self.body_fault: Fault | None = None
        self.dripped = 0

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet; after STARTTLS the same conversation gets its new transport."""
        self.transport = cast(asyncio.Transport, transport)
        if self.secure:
            return
        # TLS from the first byte (RFC 8314 §3.3) is a matter of how the server listens.
        self.secure = self.transport.get_extra_info("sslcontext") is not None
        self.desk.connections += 1
        self.desk.open.add(self)
        fault = self.desk.faults.pick("connect")
        if fault is None or not self._refused(fault):
            self._say(b"220 localhost ESMTP dripfleet sink\r\n", fault)
        elif fault.action == "code":
            self._hang_up()
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """The other side, or a fault, has ended it."""
        self.closing = True
        self.desk.open.discard(self)

    def data_received(self, data: bytes) -> None:
        """Take what came and answer as much as is complete."""
        self.buffer += data
        if not self.blocked:
            self._work()

    def _work(self) -> None:
        while (
            not self.blocked
            and not self.closing
            and (self._body() if self.in_body else self._line())
        ):
            pass
        self._flush()

    def _flush(self) -> None:
        if self.out and not self.transport.is_closing():
            self.transport.write(b"".join(self.out))
        self.out.clear()

    def _hang_up(self, *, rudely: bool = False) -> None:
        """Close after what was said (FIN), or rudely at once, saying nothing more."""
        self.closing = True
        if rudely:
            self.out.clear()
            self.transport.abort()
        else:
            self._flush()
            self.transport.close()

    def _reset(self) -> None:
        """Say what is to be said, and send RST behind it: the other end may never read it."""
        self._flush()
        self.closing = True
        wire = self.transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _line(self) -> bool:
        """Do the next command; whether there was a whole one."""
        raise NotImplementedError

    def _body(self) -> bool:
        """Take the next mail; whether its dot had come."""
        raise NotImplementedError

    # answers

    def _refused(self, fault: Fault) -> bool:
        """Whether the fault takes the answer's place; then it is done."""
        if fault.action == "code":
            # A mailbox that does not exist is said as such: the sender suppresses it (RFC 3463).
            dead = fault.stage == "rcpt" and fault.code in (550, 551, 553)
            status = b"1.1 no such mailbox" if dead else b"3.0 fault on command"
            self.out.append(b"%d %d.%b\r\n" % (fault.code, fault.code // 100, status))
            if fault.code == 421:
                self._hang_up()
        elif fault.action in ("close", "drop", "accept_then_drop"):
            self._hang_up(rudely=fault.action != "close")
        else:
            return False
        return True

    def _say(self, reply: bytes, fault: Fault | None = None) -> None:
        """Answer, disturbed by a stall, a drip, a reset or garbage where a fault says so."""
        if fault is None:
            self.out.append(reply)
        elif fault.action == "garbage":
            self.out.append(GARBAGE)
        elif fault.action == "stall":
            self._wait(fault.seconds, lambda: self.out.append(reply))
        elif fault.action == "reset":
            self.out.append(reply)
            self._reset()
        else:
            self._drip(reply, fault.seconds)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        """Do `then` later; what the client sends meanwhile waits its turn."""
        self.blocked = True
        self._flush()
        self.loop.call_later(seconds, self._resume, then)

    def _resume(self, then: Callable[[], None]) -> None:
        self.blocked = False
        if not self.closing:
            then()
            if not self.blocked:
                self._work()

    def _drip(self, rest: bytes, seconds: float) -> None:
        self.out.append(rest[:1])
        self._flush()
        if len(rest) > 1:
            self._wait(seconds, lambda: self._drip(rest[1:], seconds))
