"""What a relay may be told: how many connections, how fast, how large; and a login by token."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword, Session
from aiosmtpd.smtp import Envelope as Taken

from tasks.errors import Misconfigured
from tasks.send.lane import Lane
from tasks.send.mail import Mail, Ticket
from tasks.send.outcome import Accepted, Deferred, Refused
from tasks.send.settler import Settlement
from tasks.send.transport import (
    OFFERED,
    TOO_LARGE,
    Connection,
    Envelope,
    Kind,
    NotSent,
    Relay,
    Stage,
    boottime,
    wire_body,
)
from tests.unit.smtp_peer import Peer

MAIL = Envelope("news@shop.example", "ada@example.com")
BODY = wire_body(b"Subject: hello\r\n\r\n.dotted\r\nbye\r\n")
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


# What the URL says


def test_limits_of_a_relay_stand_in_its_url() -> None:
    relay = Relay.parse("smtp://user:pw@mail.example.com:587?connections=8&rate=14.5")
    assert (relay.connections, relay.rate, relay.security) == (8, 14.5, "starttls")
    assert Relay.parse("smtp://mail.example.com?mails=100").mails == 100
    plain = Relay.parse("smtp://127.0.0.1?starttls=never")
    assert (plain.connections, plain.rate, plain.token_file) == (None, None, None)
    relay = Relay.parse("smtps://me%40example.com@smtp.example.com?token=/run/token")
    assert (relay.username, relay.password, relay.token_file) == (
        "me@example.com", None, "/run/token",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("smtp://127.0.0.1?connections=0", "a connections that is no number from 1 to 2000"),
        ("smtp://127.0.0.1?connections=1.5", "a connections that is no number"),
        ("smtp://127.0.0.1?rate=fast", "a rate that is no number from 0.01 to 100000"),
        ("smtp://127.0.0.1?rate=0", "a rate that is no number"),
        ("smtp://127.0.0.1?rate=-1", "a rate that is no number"),
        ("smtp://127.0.0.1?rate=1&rate=2", "an option twice"),
        ("smtp://127.0.0.1?speed=1", "known are starttls, ca, connections, rate, token, mails"),
        ("smtp://127.0.0.1?mails=0", "a mails that is no number from 1 to 2000"),
        ("smtp://u:p@127.0.0.1?token=x", "goes with a user and without a password"),
        ("smtp://127.0.0.1?token=x", "goes with a user and without a password"),
        ("smtp://u@127.0.0.1?token=", "a token that names no file"),
        ("smtp://u@mail.example.com?token=x&starttls=never", "in the clear"),
    ],
)
def test_a_limit_that_is_none_is_one_clear_sentence(url: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        Relay.parse(url)


# SIZE


def test_a_mail_larger_than_the_relay_takes_ends_before_a_byte_of_it(run: Run) -> None:
    async def talk() -> None:
        async with Peer(EHLO=b"250-peer.test\r\n250-PIPELINING\r\n250 SIZE 100\r\n") as peer:
            relay = Relay.parse(f"smtp://127.0.0.1:{peer.port}")
            connection = await Connection.open(relay, helo_name="me.test")
            assert isinstance(connection, Connection)
            refused = await connection.offer(MAIL, wire_body(b"x" * 99))
            assert refused == NotSent(Stage.MAIL, None, TOO_LARGE, Kind.REFUSED)
            assert peer.heard[1:] == [] and connection.usable
            assert await connection.offer(MAIL, wire_body(b"x" * 98)) is OFFERED
            assert isinstance(await connection.finish(5.0), Accepted)
            await connection.quit()

    run(talk())


@pytest.mark.parametrize("said", [b"SIZE", b"SIZE 0", b"SIZE many"])
def test_a_relay_that_names_no_limit_is_given_any_mail(run: Run, said: bytes) -> None:
    async def talk() -> None:
        async with Peer(EHLO=b"250-peer.test\r\n250-PIPELINING\r\n250 " + said + b"\r\n") as peer:
            relay = Relay.parse(f"smtp://127.0.0.1:{peer.port}")
            connection = await Connection.open(relay, helo_name="me.test")
            assert isinstance(connection, Connection)
            assert await connection.offer(MAIL, BODY) is OFFERED
            connection.abandon()

    run(talk())


# Rate and connections, on a lane


class Counter:
    """The loop of a lane, which permits every dot and notes when it was asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.done = asyncio.Event()
        self.wanted = 0

    async def permit(self, mail: Mail) -> float | None:
        self.asked.append(time.monotonic())
        return boottime() + 5

    def answered(self, mail: Mail, outcome: Accepted | Deferred | Refused) -> None:
        self.wanted -= 1
        if not self.wanted:
            self.done.set()

    bounced = answered

    def settle(self, mail: Mail, settlement: Settlement) -> None:
        raise AssertionError(settlement)

    def stream_fault(self, stream: str, cause: str) -> None:
        raise AssertionError(cause)


def test_a_lane_holds_its_relays_rate_and_number_of_connections(run: Run) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            counter = Counter()
            counter.wanted = 7
            lane = Lane(
                Relay.parse(f"smtp://127.0.0.1:{peer.port}?connections=3&rate=40"),
                connections=32, helo_name="me.test", reply_wait=5, away=1, domain_rest=1,
                cycles=counter,
            )  # fmt: skip
            mails = [
                Mail(n, 1, n, None, "marketing", "ada@example.com", b"", MAIL, BODY, Ticket(1))
                for n in range(counter.wanted)
            ]
            await lane.put(mails)
            await asyncio.wait_for(counter.done.wait(), 10)
            assert len(peer.writers) <= 3
            # Six turns of 25 ms lie between the first and the last, however late each one begins.
            assert counter.asked[-1] - counter.asked[0] >= 6 / 40 - 0.02
            await lane.put([mails[0], mails[1], mails[2], mails[3]])
            assert len(lane.take_back()) >= 1  # who waits for a turn can be taken back
            await lane.close()

    run(talk())


@pytest.mark.parametrize("pipelining", [True, False])
def test_a_connection_is_closed_politely_after_the_mails_that_its_relay_wants(
    run: Run, pipelining: bool
) -> None:
    async def talk() -> None:
        greeting = b"250-peer.test\r\n250 PIPELINING\r\n" if pipelining else b"250 peer.test\r\n"
        async with Peer(EHLO=greeting) as peer:
            counter = Counter()
            counter.wanted = 7
            lane = Lane(
                Relay.parse(f"smtp://127.0.0.1:{peer.port}?connections=1&mails=3"),
                connections=32, helo_name="me.test", reply_wait=5, away=1, domain_rest=1,
                cycles=counter,
            )  # fmt: skip
            mails = [
                Mail(n, 1, n, None, "marketing", "ada@example.com", b"", MAIL, BODY, Ticket(1))
                for n in range(counter.wanted)
            ]
            await lane.put(mails)
            await asyncio.wait_for(counter.done.wait(), 10)
            await lane.close()
            heard = [line.split()[0] for line in peer.heard]
            turns = " ".join(each for each in heard if each in ("EHLO", "MAIL", "QUIT"))
            three, one = "EHLO MAIL MAIL MAIL QUIT", "EHLO MAIL QUIT"
            assert turns == f"{three} {three} {one}"

    run(talk())


# Another server: aiosmtpd, which knows no PIPELINING


class Box:
    """What aiosmtpd hands to: keeps mails, and knows one token."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, list[str], bytes]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Taken) -> str:
        self.taken.append((envelope.mail_from, envelope.rcpt_tos, envelope.original_content))
        return "250 2.0.0 queued"

    async def auth_XOAUTH2(self, server: SMTP, args: list[str]) -> AuthResult:
        if b64decode(args[1]) == b"user=me\1auth=Bearer good\1\1":
            return AuthResult(success=True)
        await server.push("334 eyJzdGF0dXMiOiI0MDAifQ==")
        assert await server._reader.readline() == b"\r\n"
        return AuthResult(success=False, handled=False)


@asynccontextmanager
async def listening(box: Box) -> AsyncIterator[int]:
    """aiosmtpd on a port of loopback."""
    loop = asyncio.get_running_loop()

    def conversation() -> SMTP:
        return SMTP(
            box,
            hostname="box.test",
            loop=loop,
            enable_SMTPUTF8=True,
            auth_require_tls=False,
            data_size_limit=5000,
            authenticator=lambda server, session, envelope, mechanism, data: AuthResult(
                success=data == LoginPassword(b"me", b"pw"), handled=False
            ),
        )

    server = await loop.create_server(conversation, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def opened(url: str) -> Connection:
    connection = await Connection.open(Relay.parse(url), helo_name="me.test")
    assert isinstance(connection, Connection), connection
    return connection


def test_aiosmtpd_takes_mails_byte_for_byte_without_pipelining(run: Run) -> None:
    box = Box()

    async def talk() -> None:
        async with listening(box) as port:
            connection = await opened(f"smtp://me:pw@127.0.0.1:{port}")
            assert not connection.pipelining
            for recipient in ("ada@example.com", "zoë@example.com"):
                offered = await connection.offer(Envelope("a@b.example", recipient), BODY)
                assert offered is OFFERED
                assert isinstance(await connection.finish(5.0), Accepted)
            large = await connection.offer(MAIL, wire_body(b"x\r\n" * 2000))
            assert large == NotSent(Stage.MAIL, None, TOO_LARGE, Kind.REFUSED)
            await connection.quit()

    run(talk())
    content = b"Subject: hello\r\n\r\n.dotted\r\nbye\r\n"
    assert box.taken == [
        ("a@b.example", ["ada@example.com"], content),
        ("a@b.example", ["zoë@example.com"], content),
    ]


def test_a_token_logs_in_and_is_read_anew_for_each_connection(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "token"

    async def talk() -> None:
        async with listening(Box()) as port:
            await logged_in(f"smtp://me@127.0.0.1:{port}?token={file}")

    async def logged_in(url: str) -> None:
        async def tried() -> Connection | NotSent:
            return await Connection.open(Relay.parse(url), helo_name="me.test")

        for content, cause in (
            (None, "cannot be read (FileNotFoundError)"),
            (" \n", "holds no token"),
            ("stale", "the relay answered 535 at auth"),
        ):
            if content is not None:
                file.write_text(content)
            refused = await tried()
            assert isinstance(refused, NotSent) and cause in refused.cause, refused
            # Whoever keeps the token fresh may only be late: nothing is paused.
            assert (refused.stage, refused.kind) == (Stage.AUTH, Kind.DEFERRED)
        file.write_text("good\n")
        connection = await tried()
        assert isinstance(connection, Connection)
        await connection.quit()

    run(talk())


def test_a_relay_without_xoauth2_is_a_fault_of_the_stream(run: Run, tmp_path: Path) -> None:
    async def talk() -> None:
        async with Peer(EHLO=b"250-peer.test\r\n250 AUTH PLAIN\r\n") as peer:
            relay = Relay.parse(f"smtp://me@127.0.0.1:{peer.port}?token={tmp_path}")
            refused = await Connection.open(relay, helo_name="me.test")
            assert isinstance(refused, NotSent) and refused.kind is Kind.STREAM_FAULT
            assert "XOAUTH2 is not offered" in refused.cause

    run(talk())
