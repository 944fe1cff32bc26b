"""A scripted SMTP server for one test: it says what it is told to, and remembers what it heard."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType

HANG_UP = b"\0hang up"
SILENCE = b""
EHLO = b"250-peer.test\r\n250-PIPELINING\r\n250 SIZE 1000000000\r\n"
POLITE = {
    "GREETING": b"220 peer.test ESMTP\r\n",
    "EHLO": EHLO,
    "STARTTLS": b"220 go ahead\r\n",
    "AUTH": b"235 2.7.0 welcome\r\n",
    "MAIL": b"250 2.1.0 ok\r\n",
    "RCPT": b"250 2.1.5 ok\r\n",
    "DATA": b"354 go on\r\n",
    "DOT": b"250 2.0.0 queued\r\n",
    "RSET": b"250 2.0.0 ok\r\n",
    "QUIT": b"221 2.0.0 bye\r\n",
}


class Peer:
    """Answers each verb by its script; ``heard`` holds command lines, ``mails`` whole bodies.

    ``between`` is said after 354 without being asked; ``tls`` makes STARTTLS work.
    """

    def __init__(
        self,
        script: dict[str, bytes] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        between: bytes = b"",
        **more: bytes,
    ) -> None:
        self.script = POLITE | (script or {}) | more
        self.tls = tls
        self.between = between
        self.heard: list[str] = []
        self.mails: list[bytes] = []
        self.part = b""
        self.first_dot: bytes | None = None  # SILENCE: the first one is never answered
        self.announced = 0  # dots that came with something behind them in one write
        self.reads_bodies = True
        self.closed = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**24)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.writers.append(writer)
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self.closed.set()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._say(writer, "GREETING"):
            return
        ahead = bytearray()  # what came in the write of a dot, behind it
        while line := (await _line(reader, ahead)).decode():
            self.heard.append(line.rstrip("\r\n"))
            verb = line[:4].strip().upper()
            verb = {"STAR": "STARTTLS", "HELO": "EHLO"}.get(verb, verb)
            if not self._say(writer, verb):
                return
            if verb == "STARTTLS" and self.tls is not None and self.script[verb][:3] == b"220":
                await writer.drain()
                await writer.start_tls(self.tls)
            if verb == "DATA" and self.script["DATA"][:3] == b"354":
                writer.write(self.between)
                if not await self._body(reader, writer, ahead):
                    return

    async def _body(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ahead: bytearray
    ) -> bool:
        if not self.reads_bodies:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.Event().wait()
        self.part = b""
        while (end := (b"\r\n" + self.part).find(b"\r\n.\r\n")) < 0:
            more = await reader.read(2**16)
            if not more:
                return False
            self.part += more
        self.part, behind = self.part[: end + 3], self.part[end + 3 :]
        ahead += behind
        if behind:
            self.announced += 1
        self.mails.append(self.part)
        if self.first_dot is not None:
            # It says nothing to this dot, nor to what came with it.
            self.first_dot = None
            await asyncio.Event().wait()
        return self._say(writer, "DOT")

    def _say(self, writer: asyncio.StreamWriter, verb: str) -> bool:
        answer = self.script[verb]
        words, hang_up, _ = answer.partition(HANG_UP)
        writer.write(words)
        if hang_up:
            writer.close()
        return not hang_up


async def _line(reader: asyncio.StreamReader, ahead: bytearray) -> bytes:
    """The next line, of what was read already first."""
    if b"\n" not in ahead:
        ahead += await reader.readline()
    line, end, rest = bytes(ahead).partition(b"\n")
    ahead[:] = rest
    return line + end
