"""Addresses outside ASCII: SMTPUTF8 where the relay offers it, an end with a reason elsewhere."""

from __future__ import annotations

import asyncio
import email
import email.policy
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tasks.errors import Permanent
from tasks.send.content import Content, Facts, Sender, check, compose
from tasks.send.render import Rendered
from tasks.send.transport import (
    OFFERED,
    SMTPUTF8_UNSUPPORTED,
    Accepted,
    Connection,
    Envelope,
    Kind,
    NotSent,
    Relay,
    Stage,
    wire_body,
)
from tests.unit.smtp_peer import EHLO, Peer
from workers.embedded.sink import in_thread, read_mail

WIDE = Envelope("news@shop.example", "zoë@example.com")
PLAIN = Envelope("news@shop.example", "ada@example.com")
BODY = wire_body("To: zoë@example.com\r\n\r\nhello\r\n".encode())
OFFERS = b"250-peer.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
SENDER = Sender("Shop", "news@shop.example", "1 Example Street", "leave@shop.example")
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


async def opened(port: int) -> Connection:
    relay = Relay.parse(f"smtp://127.0.0.1:{port}")
    connection = await Connection.open(relay, helo_name="me.test")
    assert isinstance(connection, Connection), connection
    return connection


def composed(to: str) -> Content:
    facts = Facts("<x@shop.example>", to, datetime(2026, 1, 2, tzinfo=UTC), b"key", "token")
    return compose(Rendered("Grüße", "Schöne Grüße\n", None), message=facts, sender=SENDER)


# On the wire


@pytest.mark.parametrize("extra", [b"", b"250-PIPELINING\r\n"], ids=["lock step", "pipelined"])
def test_where_smtputf8_is_offered_the_mail_says_that_it_needs_it(run: Run, extra: bytes) -> None:
    async def talk() -> None:
        ehlo = b"250-peer.test\r\n" + extra + b"250-8BITMIME\r\n250 SMTPUTF8\r\n"
        async with Peer(EHLO=ehlo) as peer:
            connection = await opened(peer.port)
            assert await connection.offer(WIDE, BODY) is OFFERED
            assert isinstance(await connection.finish(5), Accepted)
            await connection.quit()
            assert peer.heard[1:4] == [
                "MAIL FROM:<news@shop.example> SMTPUTF8 BODY=8BITMIME",
                "RCPT TO:<zoë@example.com>",
                "DATA",
            ]
            assert peer.mails == [BODY + b".\r\n"]

    run(talk())


def test_where_it_is_not_offered_the_mail_ends_and_the_connection_goes_on(run: Run) -> None:
    async def talk() -> None:
        async with Peer(EHLO=EHLO) as peer:
            connection = await opened(peer.port)
            refused = await connection.offer(WIDE, BODY)
            assert refused == NotSent(Stage.MAIL, None, SMTPUTF8_UNSUPPORTED, Kind.REFUSED)
            assert peer.heard == ["EHLO me.test"]
            assert connection.usable
            assert await connection.offer(PLAIN, wire_body(b"\r\nhi\r\n")) is OFFERED
            assert isinstance(await connection.finish(5), Accepted)
            assert not any("SMTPUTF8" in line for line in peer.heard)
            await connection.quit()

    run(talk())


def test_a_relay_that_has_hung_up_is_no_verdict_on_the_mail(run: Run) -> None:
    async def talk() -> None:
        async with Peer(EHLO=EHLO) as peer:
            connection = await opened(peer.port)
            connection.abandon()
            refused = await connection.offer(WIDE, BODY)
            assert isinstance(refused, NotSent)
            assert refused.kind is Kind.DEFERRED

    run(talk())


def test_what_never_needed_it_does_not_ask_for_it(run: Run) -> None:
    async def talk() -> None:
        async with Peer(EHLO=OFFERS) as peer:
            connection = await opened(peer.port)
            punycode = Envelope("", "ada@müller.de")
            assert await connection.offer(punycode, wire_body(b"\r\nhi\r\n")) is OFFERED
            await connection.finish(5)
            await connection.quit()
            assert peer.heard[1:3] == ["MAIL FROM:<>", "RCPT TO:<ada@xn--mller-kva.de>"]

    run(talk())


def test_a_mail_to_such_an_address_reaches_the_sink_byte_for_byte(tmp_path: Path) -> None:
    octets = composed("zoë@müller.de").octets

    async def talk(port: int) -> None:
        connection = await opened(port)
        envelope = Envelope("news@shop.example", "zoë@müller.de")
        assert await connection.offer(envelope, wire_body(octets)) is OFFERED
        assert isinstance(await connection.finish(5), Accepted)
        await connection.quit()

    with in_thread(tmp_path) as sink:
        asyncio.run(talk(sink.port))
        (line,) = sink.lines()
        assert line.rcpt == "zoë@xn--mller-kva.de"
        assert read_mail(tmp_path, line) == octets


# The envelope


def test_only_a_local_part_outside_ascii_needs_smtputf8() -> None:
    assert WIDE.needs_smtputf8
    assert not Envelope("", "zoe@müller.de").needs_smtputf8
    assert not PLAIN.needs_smtputf8


def test_a_sender_outside_ascii_is_refused() -> None:
    with pytest.raises(Permanent, match="sender address holds a character outside ASCII"):
        Envelope("zoë@shop.example", "ada@example.com")


# The headers


def test_to_alone_is_in_utf8_and_only_where_it_must_be() -> None:
    head = composed("zoë@müller.de").octets.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert [line for line in head if not line.isascii()] == [
        "To: zoë@xn--mller-kva.de".encode(),
    ]
    parsed = email.message_from_bytes(
        composed("zoë@müller.de").octets, policy=email.policy.SMTPUTF8
    )
    assert parsed["To"] == "zoë@xn--mller-kva.de"
    assert parsed["Subject"] == "Grüße"
    assert parsed.get_content() == "Schöne Grüße\r\n"
    assert composed("zoe@müller.de").octets.isascii()


@pytest.mark.parametrize(
    ("octets", "meant"),
    [
        ("To: a@b.de\r\nSubject: ü\r\n\r\nx\r\n", [("To", "a@b.de"), ("Subject", "ü")]),
        ("To: zoë@b.de\r\nSubject: ü\r\n\r\nx\r\n", [("To", "zoë@b.de"), ("Subject", "ü")]),
        ("To: zoë@b.de\r\nSubject: s\r\n\r\nü\r\n", [("To", "zoë@b.de"), ("Subject", "s")]),
        (
            "Subject: s\r\nTo: zoë@b.de\r\n\r\nTo: zoë@b.de\r\n",
            [("Subject", "s"), ("To", "zoë@b.de")],
        ),
        ("To: zoë@b.de\r\n\r\nx\r\n", [("To", "zoe@b.de")]),
    ],
)
def test_the_check_lets_nothing_else_through(octets: str, meant: list[tuple[str, str]]) -> None:
    with pytest.raises(Permanent, match="not sent"):
        check(octets.encode(), meant)


def test_the_check_passes_a_to_that_was_meant() -> None:
    meant = [("To", "zoë@b.de"), ("Subject", "s")]
    check("To: zoë@b.de\r\nSubject: s\r\n\r\nx\r\n".encode(), meant)
