"""A TCP proxy between the fleet and its Postgres, which can be cut, stalled, or made deaf one way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Literal, Self, TypeVar

Mode = Literal["open", "cut", "stalled", "mute"]
T = TypeVar("T")


class Proxy:
    """Listens on loopback in a thread of its own, for as long as the context lasts.

    Modes: `open` passes everything on; `cut` resets what is there and whoever comes; `stalled` holds
    both directions back and loses nothing; `mute` passes on what the clients say and swallows every
    answer, so that a COMMIT is done and nobody hears of it (leave it by `cut`).

    Args:
        port: of the server on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._mode: Mode = "open"
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def connections(self) -> int:
        """How many there are now; a look from another thread."""
        return len(self._pairs)

    def set(self, mode: Mode) -> int:
        """Change the mode; returns how many connections there were."""
        return self._on_loop(lambda: self._set(mode))

    def _set(self, mode: Mode) -> int:
        count, self._mode = len(self._pairs), mode
        if mode == "cut":
            for pair in list(self._pairs):
                for writer in pair:
                    writer.transport.abort()
        if mode in ("open", "cut"):
            self._moving.set()
        else:
            self._moving.clear()
        return count

    def _on_loop(self, call: Callable[[], T]) -> T:
        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over, self._moving = asyncio.Event(), asyncio.Event()
        self._moving.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._over.wait()
        server.close()
        self._set("cut")
        while self._pairs:
            await asyncio.sleep(0.01)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "cut":
            writer.transport.abort()
            return
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        for each in (writer, server):
            wire: socket.socket = each.get_extra_info("socket")
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = (writer, server)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._pass(reader, server, answer=False), self._pass(answers, writer, answer=True)
            )
        finally:
            self._pairs.discard(pair)
            for each in pair:
                each.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answer: bool
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(1 << 16):
                if self._mode == "mute" and answer:
                    continue
                if self._mode == "stalled":
                    await self._moving.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
