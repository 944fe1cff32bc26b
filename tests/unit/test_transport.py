"""The SMTP conversation: where the stage is always known, and only a 2yz after the dot is a yes."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import Misconfigured, Permanent
from tasks.send.channel import Channel
from tasks.send.transport import (
    OFFERED,
    Accepted,
    Connection,
    Deferred,
    Envelope,
    InDoubt,
    Kind,
    NotSent,
    Outcome,
    Refused,
    Relay,
    Stage,
    Timeouts,
    WireBody,
    boottime,
    wire_body,
)
from tests.unit.smtp_peer import EHLO, HANG_UP, SILENCE, Peer

T = TypeVar("T")
MAIL = Envelope("news@shop.example", "ada@example.com")
BODY = wire_body(b"Subject: hello\r\n\r\n.dotted\r\nbye\r\n")
LONG = 600.0
BRISK = Timeouts(connect=5.0, command=5.0, body=5.0)
IMPATIENT = Timeouts(connect=5.0, command=0.1, body=0.1)
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.new_event_loop,
    uvloop.new_event_loop,
]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    # The extensions make it its own authority for 127.0.0.1.
    command = [
        *"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split(),
        *"-days 2 -subj /CN=peer.test -addext subjectAltName=IP:127.0.0.1".split(),
        *("-keyout", str(path), "-out", str(path.with_suffix(".crt"))),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes the test's certificate, is not installed")
    with path.open("a") as file:
        file.write(path.with_suffix(".crt").read_text())
    return path


def server_side(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def tried(
    peer: Peer, options: str = "", user: str = "", *, patience: Timeouts = BRISK
) -> Connection | NotSent:
    relay = Relay.parse(f"smtp://{user}127.0.0.1:{peer.port}{options}", timeouts=patience)
    return await Connection.open(relay, helo_name="me.test")


async def opened(
    peer: Peer, options: str = "", user: str = "", *, patience: Timeouts = BRISK
) -> Connection:
    connection = await tried(peer, options, user, patience=patience)
    assert isinstance(connection, Connection), connection
    return connection


async def sent(peer: Peer, *, timeout: float = 5.0, patience: Timeouts = BRISK) -> Outcome:
    connection = await opened(peer, patience=patience)
    offered = await connection.offer(MAIL, BODY)
    outcome = offered if isinstance(offered, NotSent) else await connection.finish(timeout)
    await connection.quit()
    return outcome


# The mail that goes well.


def test_a_mail_is_accepted_byte_for_byte_and_the_connection_takes_the_next(run: Run) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            connection = await opened(peer)
            for _ in range(3):
                assert await connection.offer(MAIL, BODY) is OFFERED
                assert connection.at_dot
                outcome = await connection.finish(LONG)
                assert isinstance(outcome, Accepted)
                assert (outcome.code, outcome.enhanced, outcome.text) == (250, "2.0.0", "queued")
                assert connection.usable
            await connection.quit()
            assert peer.mails == [BODY + b".\r\n"] * 3
            assert peer.heard[1] == f"MAIL FROM:<news@shop.example> SIZE={len(BODY)}"
            assert peer.heard[-1] == "QUIT"

    run(talk())


def test_until_finish_the_peer_has_no_dot(run: Run) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            connection = await opened(peer)
            assert await connection.offer(MAIL, BODY) is OFFERED
            await until(lambda: peer.part == BODY)
            assert connection.stage is Stage.BODY
            connection.abandon()
            await peer.closed.wait()
            assert peer.mails == []
            assert not connection.usable

    run(talk())


def test_without_pipelining_each_command_waits_for_its_answer(run: Run) -> None:
    async def talk() -> None:
        async with Peer(EHLO=b"250 peer.test\r\n") as peer:
            connection = await opened(peer)
            assert not connection.pipelining
            assert await connection.offer(MAIL, BODY) is OFFERED
            assert isinstance(await connection.finish(LONG), Accepted)
            connection.abandon()
            assert [line[:4] for line in peer.heard] == ["EHLO", "MAIL", "RCPT", "DATA"]

    run(talk())


def test_a_body_larger_than_every_buffer_arrives_whole(run: Run) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            body = wire_body(b"x" * 76 + b"\r\n" + (b"y" * 76 + b"\r\n") * 200_000)
            connection = await opened(peer)
            assert await connection.offer(MAIL, body) is OFFERED
            assert isinstance(await connection.finish(30), Accepted)
            connection.abandon()
            assert peer.mails == [body + b".\r\n"]

    run(talk())


def test_eight_bit_content_is_announced_where_the_relay_asks_for_it(run: Run) -> None:
    async def talk() -> None:
        async with Peer(EHLO=b"250-peer.test\r\n250 8bitmime\r\n") as peer:
            connection = await opened(peer)
            assert await connection.offer(MAIL, wire_body("grüße".encode())) is OFFERED
            connection.abandon()
            assert peer.heard[1].endswith("> BODY=8BITMIME")

    run(talk())


# Before the dot.

REFUSALS = [
    ("MAIL", b"451 4.3.0 later\r\n", Stage.MAIL, Kind.DEFERRED),
    ("MAIL", b"550 5.7.1 not from here\r\n", Stage.MAIL, Kind.REFUSED),
    ("MAIL", b"530 5.7.0 authentication required\r\n", Stage.MAIL, Kind.STREAM_FAULT),
    ("MAIL", b"421 4.7.0 too many\r\n", Stage.MAIL, Kind.SLOW_DOWN),
    ("RCPT", b"450 4.2.1 greylisted\r\n", Stage.RCPT, Kind.DEFERRED),
    ("RCPT", b"421 4.7.0 slow down\r\n", Stage.RCPT, Kind.SLOW_DOWN),
    ("RCPT", b"550 5.1.1 no such mailbox\r\n", Stage.RCPT, Kind.HARD_BOUNCE),
    ("RCPT", b"550 5.1.10 null MX\r\n", Stage.RCPT, Kind.HARD_BOUNCE),
    ("RCPT", b"550 no such user here\r\n", Stage.RCPT, Kind.HARD_BOUNCE),
    ("RCPT", b"551 user not local\r\n", Stage.RCPT, Kind.HARD_BOUNCE),
    ("RCPT", b"550 5.1.8 bad sender's system\r\n", Stage.RCPT, Kind.REFUSED),
    ("RCPT", b"550 5.7.1 blocked\r\n", Stage.RCPT, Kind.REFUSED),
    ("RCPT", b"550 4.1.1 classes differ, policy\r\n", Stage.RCPT, Kind.REFUSED),
    ("RCPT", b"550 your address is on a blocklist\r\n", Stage.RCPT, Kind.REFUSED),
    ("RCPT", b"553 not in my rcpthosts (#5.7.1)\r\n", Stage.RCPT, Kind.REFUSED),
    ("RCPT", b"552 5.2.2 full\r\n", Stage.RCPT, Kind.REFUSED),
    ("RCPT", b"354 what\r\n", Stage.RCPT, Kind.DEFERRED),
    ("DATA", b"452 4.3.1 no space\r\n", Stage.DATA, Kind.DEFERRED),
    ("DATA", b"554 5.3.4 no\r\n", Stage.DATA, Kind.REFUSED),
    ("DATA", b"250 what\r\n", Stage.DATA, Kind.DEFERRED),
    ("DATA", HANG_UP, Stage.DATA, Kind.DEFERRED),
    ("RCPT", HANG_UP, Stage.RCPT, Kind.DEFERRED),
    ("MAIL", b"hello\r\n", Stage.MAIL, Kind.DEFERRED),
    ("DATA", b"354 go on" + HANG_UP, Stage.DATA, Kind.DEFERRED),
]


@pytest.mark.parametrize("ehlo", [EHLO, b"250 peer.test\r\n"], ids=["pipelining", "plain"])
@pytest.mark.parametrize(("verb", "answer", "stage", "kind"), REFUSALS)
def test_a_refusal_before_the_dot_says_where_and_what_it_means(
    verb: str, answer: bytes, stage: Stage, kind: Kind, ehlo: bytes
) -> None:
    async def talk() -> None:
        async with Peer({verb: answer}, EHLO=ehlo) as peer:
            outcome = await sent(peer)
            assert isinstance(outcome, NotSent)
            assert (outcome.stage, outcome.kind) == (stage, kind)
            assert peer.mails == []

    asyncio.run(talk())


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA])
def test_silence_before_the_dot_is_not_sent_and_names_its_stage(run: Run, stage: Stage) -> None:
    async def talk() -> None:
        verbs = ("MAIL", "RCPT", "DATA")
        silent = verbs[verbs.index(stage.upper()) :]
        async with Peer(dict.fromkeys(silent, SILENCE)) as peer:
            outcome = await sent(peer, patience=IMPATIENT)
            assert isinstance(outcome, NotSent)
            assert (outcome.stage, outcome.kind, outcome.reply) == (stage, Kind.DEFERRED, None)
            assert outcome.cause == "no reply in time"

    run(talk())


def test_after_a_refused_recipient_the_connection_goes_on_with_rset(run: Run) -> None:
    async def talk() -> None:
        no = {"RCPT": b"550 5.1.1 no\r\n", "DATA": b"503 5.5.1 no recipient\r\n"}
        async with Peer(no) as peer:
            connection = await opened(peer)
            refusal = await connection.offer(MAIL, BODY)
            assert isinstance(refusal, NotSent)
            assert refusal.kind is Kind.HARD_BOUNCE
            assert connection.usable
            peer.script |= {"RCPT": b"250 ok\r\n", "DATA": b"354 go\r\n"}
            assert await connection.offer(MAIL, BODY) is OFFERED
            assert isinstance(await connection.finish(LONG), Accepted)
            connection.abandon()
            assert [line[:4] for line in peer.heard][4:5] == ["RSET"]

    run(talk())


def test_a_354_after_a_refused_recipient_closes_without_a_dot(run: Run) -> None:
    async def talk() -> None:
        async with Peer(RCPT=b"550 5.1.1 no\r\n") as peer:
            connection = await opened(peer)
            refusal = await connection.offer(MAIL, BODY)
            assert isinstance(refusal, NotSent)
            assert refusal.kind is Kind.HARD_BOUNCE
            assert not connection.usable
            await peer.closed.wait()
            assert (peer.mails, peer.part) == ([], b"")

    run(talk())


def test_a_relay_that_stops_reading_is_given_up_before_the_dot(run: Run) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            peer.reads_bodies = False
            connection = await opened(peer, patience=IMPATIENT)
            outcome = await connection.offer(MAIL, wire_body(BODY * 300_000))
            assert isinstance(outcome, NotSent)
            assert (outcome.stage, outcome.kind) == (Stage.BODY, Kind.DEFERRED)
            assert outcome.cause == "the relay reads no more"

    run(talk())


@pytest.mark.parametrize("answer", [b"500 no\r\n", b"421 bye\r\n", HANG_UP])
def test_a_refused_rset_is_no_verdict_on_the_next_mail(run: Run, answer: bytes) -> None:
    async def talk() -> None:
        async with Peer(MAIL=b"550 no\r\n", DATA=b"503 no\r\n", RSET=answer) as peer:
            connection = await opened(peer)
            await connection.offer(MAIL, BODY)
            refusal = await connection.offer(MAIL, BODY)
            assert isinstance(refusal, NotSent)
            assert refusal.kind in (Kind.DEFERRED, Kind.SLOW_DOWN)
            assert not connection.usable
            assert isinstance(await connection.offer(MAIL, BODY), NotSent)

    run(talk())


@pytest.mark.parametrize("early", [b"250 2.0.0 queued\r\n", b"25", b"421 4.3.2 bye\r\n", b"x\r\n"])
def test_what_came_before_the_dot_is_no_answer_to_it(run: Run, early: bytes) -> None:
    async def talk() -> None:
        async with Peer(between=early) as peer:
            outcome = await sent(peer)
            assert isinstance(outcome, NotSent)
            assert outcome.kind is (Kind.SLOW_DOWN if early[:3] == b"421" else Kind.DEFERRED)
            assert peer.mails == []

    run(talk())


@pytest.mark.parametrize("late", [b"250 2.0.0 queued\r\n", b""], ids=["reply", "hang-up"])
def test_bytes_that_the_loop_has_not_seen_yet_stop_the_dot_too(run: Run, late: bytes) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            connection = await opened(peer)
            assert await connection.offer(MAIL, BODY) is OFFERED
            await until(lambda: peer.part == BODY)
            # The event loop gets no turn from here to the dot: the bytes lie in the kernel alone.
            with socket.socket(
                fileno=os.dup(peer.writers[0].get_extra_info("socket").fileno())
            ) as s:
                if late:
                    s.send(late)
                else:
                    s.shutdown(socket.SHUT_WR)
            outcome = await connection.finish(LONG)
            assert isinstance(outcome, NotSent)
            assert outcome.stage is Stage.BODY
            assert peer.mails == []

    run(talk())


def test_a_dot_that_comes_too_late_after_arm_is_not_written(run: Run) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            connection = await opened(peer)
            assert await connection.offer(MAIL, BODY) is OFFERED
            outcome = await connection.finish(LONG, not_after=boottime() - 0.001)
            assert isinstance(outcome, NotSent)
            await peer.closed.wait()
            assert peer.mails == []
            connection = await opened(peer)
            assert await connection.offer(MAIL, BODY) is OFFERED
            assert isinstance(await connection.finish(LONG, not_after=boottime() + 60), Accepted)
            await connection.quit()

    run(talk())


# After the dot.


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"250 ok\r\n", Accepted),
        (b"250-2.0.0 ok\r\n250 2.0.0 more\r\n", Accepted),
        (b"250 ok\r\n250 twice\r\n", Accepted),
        (b"451 4.3.0 later\r\n", Deferred),
        (b"421 4.3.2 shutting down\r\n", Deferred),
        (b"554 5.7.1 no\r\n", Refused),
        (b"354 go on\r\n", InDoubt),
        (b"hello\r\n", InDoubt),
        (b"250-half", InDoubt),
        (b"250-half\r\n" + HANG_UP, InDoubt),
        (b"250-one\r\n550 two\r\n", InDoubt),
        (b"250 " + b"x" * 4000 + b"\r\n", InDoubt),
        (b"250-x\r\n" * 5000, InDoubt),
        (HANG_UP, InDoubt),
        (SILENCE, InDoubt),
    ],
)
def test_after_the_dot_only_a_reply_tells(run: Run, answer: bytes, kind: type[Outcome]) -> None:
    async def talk() -> None:
        async with Peer(DOT=answer) as peer:
            outcome = await sent(peer, timeout=0.2)
            assert type(outcome) is kind
            assert outcome.stage is Stage.DOT
            assert len(peer.mails) == 1

    run(talk())


def test_a_doubt_closes_the_connection(run: Run) -> None:
    async def talk() -> None:
        async with Peer(DOT=SILENCE) as peer:
            connection = await opened(peer)
            await connection.offer(MAIL, BODY)
            outcome = await connection.finish(0.05)
            assert isinstance(outcome, InDoubt)
            assert outcome.cause == "no reply in time"
            await peer.closed.wait()
            assert not connection.usable

    run(talk())


def test_a_cancelled_finish_tells_by_its_stage_that_a_copy_may_be_out(run: Run) -> None:
    async def talk() -> None:
        async with Peer(DOT=SILENCE) as peer:
            connection = await opened(peer)
            await connection.offer(MAIL, BODY)
            task = asyncio.ensure_future(connection.finish(LONG))
            await until(lambda: bool(peer.mails))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            assert connection.stage is Stage.DOT
            assert not connection.usable

    run(talk())


def test_a_reply_is_stored_as_one_clean_line(run: Run) -> None:
    async def talk() -> None:
        text = "554-5.7.1 go\x1b[31m away\u202e\r\n554 5.7.1 " + "ü" * 900 + "\r\n"
        async with Peer(DOT=text.encode()) as peer:
            outcome = await sent(peer)
            assert isinstance(outcome, Refused)
            assert outcome.enhanced == "5.7.1"
            assert outcome.text.startswith("go [31m away ü")
            assert outcome.text.isprintable()
            assert len(outcome.text) == 500

    run(talk())


# The opening.


@pytest.mark.parametrize(
    ("verb", "answer", "kind"),
    [
        ("GREETING", b"554 5.3.2 no mail here\r\n", Kind.DEFERRED),
        ("GREETING", b"421 4.3.2 busy\r\n", Kind.SLOW_DOWN),
        ("GREETING", b"450 later\r\n", Kind.DEFERRED),
        ("GREETING", b"HTTP/1.1 400 Bad Request\r\n", Kind.DEFERRED),
        ("GREETING", b"220 one\r\n220 two\r\n", Kind.DEFERRED),
        ("GREETING", HANG_UP, Kind.DEFERRED),
        ("GREETING", SILENCE, Kind.DEFERRED),
        ("EHLO", b"550 not you\r\n", Kind.DEFERRED),
        ("EHLO", b"451 later\r\n", Kind.DEFERRED),
        ("EHLO", HANG_UP, Kind.DEFERRED),
    ],
)
def test_an_opening_that_fails_blames_the_stream_or_nobody(
    verb: str, answer: bytes, kind: Kind
) -> None:
    async def talk() -> None:
        async with Peer({verb: answer}) as peer:
            refusal = await tried(peer, patience=IMPATIENT)
            assert isinstance(refusal, NotSent)
            assert (refusal.stage.value, refusal.kind) == (verb.lower(), kind)

    asyncio.run(talk())


def test_a_server_from_before_ehlo_is_greeted_with_helo(run: Run) -> None:
    async def talk() -> None:
        async with Peer(EHLO=b"502 what\r\n") as peer:
            refusal = await tried(peer)
            assert isinstance(refusal, NotSent)
            assert peer.heard == ["EHLO me.test", "HELO me.test"]
            assert refusal.kind is Kind.DEFERRED

    run(talk())


def test_a_dead_server_is_a_deferred_connect(run: Run) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            pass
        refusal = await tried(peer)
        assert isinstance(refusal, NotSent)
        assert (refusal.stage, refusal.kind) == (Stage.CONNECT, Kind.DEFERRED)
        assert refusal.text == "no connection (ConnectionRefusedError)"

    run(talk())


def test_starttls_and_auth_protect_the_password(run: Run, certificate: Path) -> None:
    async def talk() -> None:
        ehlo = b"250-peer.test\r\n250-STARTTLS\r\n250-PIPELINING\r\n250 AUTH PLAIN LOGIN\r\n"
        async with Peer(tls=server_side(certificate), EHLO=ehlo) as peer:
            options = f"?starttls=require&ca={certificate}"
            connection = await opened(peer, options, "me:p%40ss@")
            assert [line.split()[0] for line in peer.heard] == ["EHLO", "STARTTLS", "EHLO", "AUTH"]
            assert peer.heard[-1] == "AUTH PLAIN AG1lAHBAc3M="
            body = wire_body(BODY * 50_000)
            assert await connection.offer(MAIL, body) is OFFERED
            assert isinstance(await connection.finish(30), Accepted)
            assert peer.mails == [body + b".\r\n"]
            await connection.quit()

    run(talk())


def test_a_certificate_that_is_not_trusted_is_a_fault_of_the_stream(
    run: Run, certificate: Path
) -> None:
    async def talk() -> None:
        ehlo = b"250-peer.test\r\n250 STARTTLS\r\n"
        async with Peer(tls=server_side(certificate), EHLO=ehlo) as peer:
            refusal = await tried(peer, "?starttls=require")
            assert isinstance(refusal, NotSent)
            assert (refusal.stage, refusal.kind) == (Stage.STARTTLS, Kind.STREAM_FAULT)
            assert "not trusted" in refusal.cause

    run(talk())


STARTTLS = b"250-peer.test\r\n250 STARTTLS\r\n"


@pytest.mark.parametrize(
    ("ehlo", "starttls", "kind"),
    [
        (EHLO, b"220 go\r\n", Kind.STREAM_FAULT),
        (STARTTLS, b"500 what\r\n", Kind.STREAM_FAULT),
        (STARTTLS, b"454 4.7.0 not now\r\n", Kind.DEFERRED),
        (STARTTLS, b"220 go\r\n250 injected\r\n", Kind.DEFERRED),
        (STARTTLS, b"220 go\r\n" + HANG_UP, Kind.DEFERRED),
    ],
    ids=["stripped", "refused", "not now", "injected", "hang up"],
)
def test_where_tls_is_required_nothing_goes_on_without_it(
    run: Run, ehlo: bytes, starttls: bytes, kind: Kind
) -> None:
    async def talk() -> None:
        async with Peer(EHLO=ehlo, STARTTLS=starttls) as peer:
            refusal = await tried(peer, "?starttls=require", "me:secret@")
            assert isinstance(refusal, NotSent)
            assert (refusal.stage, refusal.kind) == (Stage.STARTTLS, kind)
            assert not any(line.startswith(("AUTH", "MAIL")) for line in peer.heard)

    run(talk())


def test_optional_tls_is_used_where_offered_and_done_without_elsewhere(run: Run) -> None:
    async def talk() -> None:
        for script in ({"EHLO": EHLO}, {"EHLO": STARTTLS, "STARTTLS": b"502 no\r\n"}):
            async with Peer(script) as peer:
                connection = await opened(peer, "?starttls=optional")
                await connection.quit()

    run(talk())


def test_a_password_never_leaves_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk() -> None:
        ehlo = b"250-peer.test\r\n250 AUTH PLAIN\r\n"
        async with Peer(EHLO=ehlo) as peer:
            await (await opened(peer, user="me:secret@")).quit()
            assert peer.heard[1].startswith("AUTH PLAIN ")
            peer.heard.clear()
            monkeypatch.setattr("tasks.send.channel.is_loopback_address", lambda host: False)
            refusal = await tried(peer, "?starttls=optional", "me:secret@")
            assert isinstance(refusal, NotSent)
            assert (refusal.stage, refusal.kind) == (Stage.AUTH, Kind.STREAM_FAULT)
            assert peer.heard == ["EHLO me.test"]

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"535 5.7.8 wrong\r\n", Kind.STREAM_FAULT),
        (b"454 4.7.0 later\r\n", Kind.DEFERRED),
        (b"421 bye\r\n", Kind.SLOW_DOWN),
    ],
)
def test_a_refused_login_is_a_fault_of_the_stream(run: Run, answer: bytes, kind: Kind) -> None:
    async def talk() -> None:
        async with Peer(EHLO=b"250-peer.test\r\n250 AUTH PLAIN\r\n", AUTH=answer) as peer:
            refusal = await tried(peer, user="me:secret@")
            assert isinstance(refusal, NotSent)
            assert (refusal.stage, refusal.kind) == (Stage.AUTH, kind)

    run(talk())


def test_a_relay_without_auth_plain_is_a_fault_of_the_stream(run: Run) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            refusal = await tried(peer, user="me:secret@")
            assert isinstance(refusal, NotSent)
            assert refusal.kind is Kind.STREAM_FAULT

    run(talk())


def test_misuse_raises_and_never_writes(run: Run) -> None:
    async def talk() -> None:
        async with Peer() as peer:
            connection = await opened(peer)
            with pytest.raises(RuntimeError):
                await connection.finish(LONG)
            for bad in (b"no end", b"a\r\n.\r\nb\r\n", b".\r\n"):
                with pytest.raises(ValueError, match="wire_body"):
                    await connection.offer(MAIL, WireBody(bad))
            assert await connection.offer(MAIL, BODY) is OFFERED
            with pytest.raises(RuntimeError):
                await connection.offer(MAIL, BODY)
            with pytest.raises(RuntimeError):
                await connection.reset()
            connection.abandon()
            relay = Relay.parse(f"smtp://127.0.0.1:{peer.port}")
            with pytest.raises(Misconfigured):
                await Connection.open(relay, helo_name="a\r\nb")

    run(talk())


# A hostile peer.


class Wire(asyncio.Transport):
    """A transport without a network: it counts what was fed to the client before the dot."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.dotted = False
        self.aborted = False

    def write(self, data: Any) -> None:
        assert not self.aborted
        self.dotted = self.dotted or data == b".\r\n"
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def abort(self) -> None:
        self.aborted = True


async def fed(chunks: list[bytes]) -> tuple[Outcome, bytes, Wire]:
    """The outcome of one mail against these chunks, then a hang-up; and what followed the dot."""
    wire, after = Wire(), b""
    channel = Channel(Relay("127.0.0.1", 25, timeouts=BRISK))
    channel.connection_made(wire)
    channel.data_received(b"220 hi\r\n")
    channel.extensions = {"PIPELINING": ""}
    connection = Connection(channel)

    async def mail() -> Outcome:
        offered = await connection.offer(MAIL, BODY)
        if isinstance(offered, NotSent):
            return offered
        return await connection.finish(LONG)

    task = asyncio.ensure_future(mail())
    await asyncio.sleep(0)
    for chunk in chunks:
        after += chunk if wire.dotted else b""
        channel.data_received(chunk)
        for _ in range(4):
            await asyncio.sleep(0)
    channel.connection_lost(None)
    return await task, after, wire


TOKENS = st.sampled_from(
    [
        b"250 ok\r\n",
        b"250 ok\r\n250 ok\r\n",
        b"250 ok\r\n250 ok\r\n354 go\r\n",
        b"354 go\r\n",
        b"250-",
        b"250",
        b" ok",
        b"\r\n",
        b"\n",
        b"550 5.1.1 no\r\n",
        b"421 bye\r\n",
        b"\0\xff",
        b"250-a\r\n250 b\r\n",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TOKENS | st.binary(min_size=1, max_size=40), max_size=14))
def test_whatever_a_peer_sends_only_a_2yz_after_the_dot_is_a_yes(chunks: list[bytes]) -> None:
    outcome, after, wire = asyncio.run(fed(chunks))
    assert isinstance(outcome, Outcome)
    assert wire.dotted is not isinstance(outcome, NotSent)
    assert wire.aborted
    if isinstance(outcome, Accepted):
        assert after.startswith(b"2")
        assert b"\n" in after
    if not wire.dotted:
        assert b"\r\n.\r\n" not in wire.written


GOOD = b"250 2.1.0 a\r\n250-2.1.5 b\r\n250 2.1.5 c\r\n354 d\r\n"
ANSWER = b"250-2.0.0 e\r\n250 2.0.0 f\r\n"


def test_how_the_bytes_are_cut_changes_nothing() -> None:
    async def talk() -> None:
        for cut in range(1, len(GOOD)):
            for end in range(1, len(ANSWER)):
                chunks = [GOOD[:cut], GOOD[cut:], ANSWER[:end], ANSWER[end:]]
                outcome, after, _ = await fed(chunks)
                assert isinstance(outcome, Accepted)
                assert (after, outcome.text) == (ANSWER, "e f")
        outcome, _, _ = await fed([bytes([byte]) for byte in GOOD + ANSWER])
        assert isinstance(outcome, Accepted)

    asyncio.run(talk())


# What goes on the wire.


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b"\r\n"),
        (b"a", b"a\r\n"),
        (b"a\nb\rc\r\nd\r\r\n", b"a\r\nb\r\nc\r\nd\r\n\r\n"),
        (b".", b"..\r\n"),
        (b"a\n.\nb\n..c\r\n", b"a\r\n..\r\nb\r\n...c\r\n"),
        (b"x" * 998 + b"\n" + b"." * 998, b"x" * 998 + b"\r\n" + b"." * 999 + b"\r\n"),
    ],
)
def test_content_is_normalised_and_stuffed_once(content: bytes, wire: bytes) -> None:
    assert wire_body(content) == wire


@given(st.binary() | st.text("\r\n.a", max_size=30).map(str.encode))
def test_no_content_can_end_the_body_early(content: bytes) -> None:
    wire = wire_body(content)
    assert b"\r\n.\r\n" not in b"\r\n" + wire
    assert wire.endswith(b"\r\n")
    lines = wire.split(b"\r\n")
    assert not any(b"\r" in line or b"\n" in line for line in lines)
    unstuffed = b"\r\n".join(line[1:] if line[:1] == b"." else line for line in lines)
    assert wire_body(unstuffed) == wire


@pytest.mark.parametrize("before", [b"", b"short\r\n", b"y" * 990 + b"\n"])
def test_a_line_too_long_for_smtp_is_refused(before: bytes) -> None:
    wire_body(before + b"x" * 998 + b"\n" + before)
    with pytest.raises(Permanent, match="more than 998 octets"):
        wire_body(before + b"x" * 999 + b"\n" + before)


@pytest.mark.parametrize(
    ("recipient", "fault"),
    [
        ("ada@example.com\r\nRCPT TO:<eve@example.com>", "a carriage return at character 16"),
        ("ada\n@example.com", "a line feed"),
        ("ada\0@example.com", "a NUL"),
        ("ada @example.com", "a space"),
        ("ada\x7f@example.com", "a control character"),
        ("ädä\x85@example.com", "a control character at character 4"),
        ("ädä\u2028@example.com", "a control character"),
        ("ädä @example.com", "a space"),
        ("ädä<@example.com", "an angle bracket"),
        ("ädä@b@example.com", "no single @"),
        ("ada@-ä.example.com", "outside ASCII at character 6"),
        ("ä" * 130 + "@b.de", "265 octets long"),
        ("ada@example.com> SIZE=1", "an angle bracket|a space"),
        ("ada@b@example.com", "no single @"),
        ("ada", "no single @"),
        ("", "is empty"),
        ("a" * 250 + "@b.de", "255 octets long"),
    ],
)
def test_an_envelope_refuses_what_could_break_it_and_never_repeats_it(
    recipient: str, fault: str
) -> None:
    with pytest.raises(Permanent, match=fault) as caught:
        Envelope("news@shop.example", recipient)
    assert "example.com" not in str(caught.value)


def test_the_null_sender_is_allowed() -> None:
    assert Envelope("", "ada@example.com").sender == ""


# Where it goes.


def test_a_relay_is_read_from_its_url() -> None:
    relay = Relay.parse("smtp://me:p%40s%3As@mail.example.com:587?starttls=require&ca=/etc/ca.pem")
    assert (relay.host, relay.port, relay.security) == ("mail.example.com", 587, "starttls")
    assert relay.credentials == ("me", "p@s:s")
    assert relay.ca_file == "/etc/ca.pem"
    assert "p@s" not in f"{relay!r} {relay}"
    assert "***" in repr(relay)


@pytest.mark.parametrize(
    ("url", "security", "port", "loopback"),
    [
        ("smtp://localhost", "none", 25, True),
        ("smtp://127.0.0.2:2525", "none", 2525, True),
        ("smtp://[::1]:2525", "none", 2525, True),
        ("smtp://mail.example.com", "starttls", 25, False),
        ("smtp://mail.example.com?starttls=never", "none", 25, False),
        ("smtp://mail.example.com?starttls=optional", "optional", 25, False),
        ("smtps://mail.example.com", "tls", 465, False),
        ("smtp://127.0.0.1.example.com?starttls=never", "none", 25, False),
    ],
)
def test_security_is_the_default_but_on_this_machine(
    url: str, security: str, port: int, loopback: bool
) -> None:
    relay = Relay.parse(url)
    assert (relay.security, relay.port, relay.is_loopback) == (security, port, loopback)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example.com:25",
        "http://mail.example.com",
        "smtp://",
        "smtp://:25",
        "smtp://mail.example.com:port",
        "smtp://mail.example.com:0",
        "smtp://mail.example.com:99999",
        "smtp://[::1",
        "smtp://mäil.example.com",
        "smtp://mail example.com",
        "smtp://mail.example.com\n",
        "smtp://mail.example.com/inbox",
        "smtp://mail.example.com#x",
        "smtp://mail.example.com?tls=yes",
        "smtp://mail.example.com?starttls=maybe",
        "smtp://mail.example.com?starttls=never&starttls=require",
        "smtp://mail.example.com?ca=",
        "smtps://mail.example.com?starttls=require",
        "smtp://me@mail.example.com",
        "smtp://me:hunter2@mail.example.com?starttls=never",
        "smtp://me:hunter2/x@mail.example.com",
        "smtp://me:hunter2%00@mail.example.com",
    ],
)
def test_a_bad_url_is_one_sentence_without_the_password(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"^The SMTP URL .* expected something like") as caught:
        Relay.parse(url)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ca_file_that_is_none_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(Misconfigured, match="ca file cannot be read"):
            Relay.parse(f"smtps://mail.example.com?ca={tmp_path / name}").ssl_context()


async def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.001)
