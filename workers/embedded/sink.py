"""The mail sink that ships: an SMTP server on loopback that keeps every mail and sends none on.

As a server of its own::

    python -m workers.embedded.sink --spool DIR --ready-file FILE [--fault dot:drop,p=0.01 …]
    python -m workers.embedded.sink --spool DIR --show '<message-id>'

or in a test: ``async with serve(spool, faults=…) as sink`` and, without a loop, ``in_thread(…)``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import Misconfigured
from workers.embedded import launch
from workers.embedded.faults import Fault, Faults
from workers.embedded.ledger import LEDGER, LedgerLine, Spool, read_ledger, read_mail
from workers.embedded.sink_process import EmbeddedSink, start_sink
from workers.embedded.smtp_wire import Desk
from workers.embedded.smtpd import Conversation

__all__ = [
    "LEDGER",
    "EmbeddedSink",
    "Fault",
    "Faults",
    "LedgerLine",
    "Sink",
    "in_thread",
    "read_ledger",
    "read_mail",
    "serve",
    "start_sink",
]


@dataclass
class Sink:
    """A sink that listens in this process."""

    host: str
    port: int
    desk: Desk

    @property
    def url(self) -> str:
        """``smtp://host:port``, without login."""
        return f"smtp://{self.host}:{self.port}"

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.desk.spool.folder / LEDGER

    @property
    def faults(self) -> Faults:
        """The plan, with its counters."""
        return self.desk.faults

    def lines(self) -> list[LedgerLine]:
        """The ledger, read now."""
        return list(read_ledger(self.ledger))

    def stats(self) -> dict[str, Any]:
        """Counts since the start: mails, bytes, connections, and faults fired by label."""
        return {
            "mails": self.desk.spool.mails,
            "bytes": self.desk.spool.bytes,
            "connections": self.desk.connections,
            "seed": self.faults.seed,
            "fired": dict(self.faults.fired),
        }


@contextlib.asynccontextmanager
async def serve(
    spool: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    faults: Faults | None = None,
    latency: float = 0.0,
    tls: ssl.SSLContext | None = None,
    login: tuple[str, str] | None = None,
    max_bytes: int = 10 * 1024 * 1024,
) -> AsyncIterator[Sink]:
    """Listen for the length of the block.

    Args:
        spool: folder of mails and ledger, for this sink alone.
        host: a loopback address.
        port: 0 takes a free one.
        faults: the plan, see `workers.embedded.faults`.
        latency: seconds between each dot and its reply.
        tls: offers STARTTLS with it.
        login: user and password; AUTH PLAIN is then asked for.
        max_bytes: largest mail taken.

    Raises:
        Misconfigured: the port is taken, or another sink has the spool.
    """
    desk = Desk(Spool(spool), faults or Faults(), latency, tls, login, max_bytes)
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(
            lambda: Conversation(desk), host, port, backlog=1024, reuse_address=True
        )
    except OSError as error:
        desk.spool.close()
        raise Misconfigured(
            f"The sink cannot listen on {host}:{port} ({error.strerror}); "
            "take another port, or 0 for a free one."
        ) from error
    try:
        yield Sink(host, server.sockets[0].getsockname()[1], desk)
    finally:
        server.close()
        for conversation in list(desk.open):
            conversation.closing = True
            conversation.transport.abort()
        deadline = loop.time() + 5.0
        while desk.open and loop.time() < deadline:
            await asyncio.sleep(0)
        desk.spool.close()


@contextlib.contextmanager
def in_thread(spool: Path, *, fast: bool = True, **options: Any) -> Iterator[Sink]:
    """`serve` on a loop in a thread of its own, for callers that have no loop.

    Args:
        spool: as in `serve`.
        fast: on uvloop, where it is installed.
        options: the others of `serve`.
    """
    ready: list[Sink | BaseException] = []
    started, leave = threading.Event(), []

    async def run() -> None:
        try:
            async with serve(spool, **options) as sink:
                over = asyncio.Event()
                loop = asyncio.get_running_loop()
                leave.append(lambda: loop.call_soon_threadsafe(over.set))
                ready.append(sink)
                started.set()
                await over.wait()
        except BaseException as error:
            ready.append(error)
            started.set()
            raise

    def body() -> None:
        factory = _loop() if fast else None
        with contextlib.suppress(Misconfigured), asyncio.Runner(loop_factory=factory) as runner:
            runner.run(run())

    thread = threading.Thread(target=body, name="sink", daemon=True)
    thread.start()
    started.wait()
    first = ready[0]
    if isinstance(first, BaseException):
        thread.join()
        raise first
    try:
        yield first
    finally:
        leave[0]()
        thread.join()


def _loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(args: argparse.Namespace) -> None:
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    tls = None
    if args.tls_cert:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(args.tls_cert, args.tls_key)
    login = tuple(args.login.split(":", 1)) if args.login else None
    plan = Faults.parse(args.fault, seed=args.seed, bounce_addresses=args.bounce_addresses)
    async with serve(
        args.spool, port=args.port, faults=plan, latency=args.latency, tls=tls, login=login
    ) as sink:
        if args.ready_file:
            ready = {"url": sink.url, "host": sink.host, "port": sink.port, "pid": os.getpid()}
            ready["started"] = launch.start_time(os.getpid())
            launch.write_private(args.ready_file, json.dumps(ready) + "\n")
        await over.wait()
        if args.stats_file:
            launch.write_private(args.stats_file, json.dumps(sink.stats(), indent=1) + "\n")


def _show(spool: Path, wanted: str) -> int:
    for line in read_ledger(spool / LEDGER):
        if wanted in (line.message_id, line.message_id.strip("<>"), line.id):
            sys.stdout.buffer.write(read_mail(spool, line))
            return 0
    sys.stderr.write(f"No mail {wanted} in {spool / LEDGER}.\n")
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sink until SIGTERM or SIGINT, or show one mail of its spool; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.embedded.sink", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--spool", type=Path, required=True, help="folder of mails and ledger")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="JSON with url and pid, once it listens")
    parser.add_argument("--stats-file", type=Path, help="JSON with counts, at the end")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds from dot to reply")
    parser.add_argument("--fault", action="append", default=[], metavar="STAGE:ACTION[,KEY=VALUE]")
    parser.add_argument("--bounce-addresses", action="store_true", help="refuse bounce+550@… so")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--tls-cert", type=Path, help="PEM; offers STARTTLS")
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--login", metavar="USER:PASSWORD", help="asks for AUTH PLAIN; for tests")
    parser.add_argument("--show", metavar="MESSAGE-ID", help="write that mail to stdout and leave")
    args = parser.parse_args(argv)
    if args.show:
        return _show(args.spool, args.show)
    try:
        with asyncio.Runner(loop_factory=_loop()) as runner:
            runner.run(_run(args))
    except (Misconfigured, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
