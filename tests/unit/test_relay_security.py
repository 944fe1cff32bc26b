"""TLS from the first byte, and the two ways to log in: against the sink, with real certificates."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tasks.send.transport import (
    OFFERED,
    Accepted,
    Connection,
    Envelope,
    Kind,
    NotSent,
    Relay,
    Stage,
    wire_body,
)
from tests.unit.smtp_peer import Peer
from workers.embedded.ledger import Spool
from workers.embedded.smtp_wire import Desk
from workers.embedded.smtpd import _HANDLERS, Conversation

MAIL = Envelope("news@shop.example", "ada@example.com")
BODY = wire_body(b"Subject: hello\r\n\r\nbye\r\n")
Run = Callable[[Coroutine[Any, Any, Any]], Any]

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates"
)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and certificates that it signed: good, expired, for another."""
    folder = tmp_path_factory.mktemp("ca")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "index").touch()
    (folder / "ca.conf").write_text(
        "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\n"
        "default_md=sha256\npolicy=any\nunique_subject=no\ncopy_extensions=copy\n"
        "[any]\ncommonName=supplied\n"
    )
    for name, host, ends in (
        ("good", "IP:127.0.0.1", "20991231000000Z"),
        ("expired", "IP:127.0.0.1", "20200131000000Z"),
        ("other", "DNS:mail.example.com", "20991231000000Z"),
    ):
        openssl(
            *("req", *key, "-subj", f"/CN={name}", "-addext", f"subjectAltName={host}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        openssl(
            *("ca", "-batch", "-config", "ca.conf", "-cert", "ca.pem", "-keyfile", "ca.key"),
            *("-startdate", "20200101000000Z", "-enddate", ends),
            *("-in", f"{name}.csr", "-out", f"{name}.pem", "-notext"),
        )
    return folder


@asynccontextmanager
async def listening(
    spool: Path, certificate: Path | None = None, **options: Any
) -> AsyncIterator[tuple[Desk, int]]:
    """The sink's conversation on a port; with a certificate, through TLS from the first byte."""
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    desk = Desk(Spool(spool), **options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Conversation(desk), "127.0.0.1", 0, ssl=context)
    try:
        yield desk, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for conversation in list(desk.open):
            conversation.transport.abort()
        desk.spool.close()


async def tried(url: str) -> Connection | NotSent:
    return await Connection.open(Relay.parse(url), helo_name="me.test")


async def delivers(connection: Connection | NotSent) -> bool:
    assert isinstance(connection, Connection), connection
    assert await connection.offer(MAIL, BODY) is OFFERED
    outcome = await connection.finish(5)
    await connection.quit()
    return isinstance(outcome, Accepted)


# TLS from the first byte


def test_smtps_delivers_and_logs_in_where_the_certificate_is_good(
    run: Run, authority: Path, tmp_path: Path
) -> None:
    async def talk() -> None:
        login = ("ann", "secret")
        async with listening(tmp_path, authority / "good.pem", login=login) as (desk, port):
            url = f"smtps://ann:secret@127.0.0.1:{port}?ca={authority / 'ca.pem'}"
            assert await delivers(await tried(url))
            assert desk.spool.mails == 1

    run(talk())


@pytest.mark.parametrize(
    ("name", "word"), [("expired", "expired"), ("other", "IP address mismatch")]
)
def test_smtps_goes_no_further_than_a_certificate_that_is_not_to_be_trusted(
    run: Run, authority: Path, tmp_path: Path, name: str, word: str
) -> None:
    async def talk() -> None:
        async with listening(tmp_path, authority / f"{name}.pem") as (desk, port):
            refusal = await tried(f"smtps://127.0.0.1:{port}?ca={authority / 'ca.pem'}")
            assert isinstance(refusal, NotSent)
            assert (refusal.stage, refusal.kind) == (Stage.STARTTLS, Kind.STREAM_FAULT)
            assert word in refusal.cause
            assert desk.spool.mails == 0

    run(talk())


def test_smtps_trusts_no_authority_that_it_was_not_given(
    run: Run, authority: Path, tmp_path: Path
) -> None:
    async def talk() -> None:
        async with listening(tmp_path, authority / "good.pem") as (_, port):
            refusal = await tried(f"smtps://127.0.0.1:{port}")
            assert isinstance(refusal, NotSent)
            assert refusal.kind is Kind.STREAM_FAULT
            assert "not trusted" in refusal.cause

    run(talk())


def test_smtps_against_a_server_in_the_clear_is_nobodys_fault(run: Run, tmp_path: Path) -> None:
    async def talk() -> None:
        async with listening(tmp_path) as (_, port):
            refusal = await tried(f"smtps://127.0.0.1:{port}")
            assert isinstance(refusal, NotSent)
            assert (refusal.stage, refusal.kind) == (Stage.STARTTLS, Kind.DEFERRED)

    run(talk())


# Logging in


@pytest.mark.parametrize(
    ("offered", "mechanism"),
    [
        ((b"LOGIN",), "LOGIN"),
        ((b"PLAIN",), "PLAIN"),
        ((b"LOGIN", b"PLAIN"), "PLAIN"),
    ],
)
def test_login_takes_what_the_relay_offers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: Any, mechanism: str
) -> None:
    asked: list[str] = []
    auth = Conversation._auth

    def listen(conversation: Conversation, rest: bytes) -> None:
        asked.append(rest.split()[0].decode())
        auth(conversation, rest)

    monkeypatch.setitem(_HANDLERS, b"AUTH", listen)

    async def talk() -> None:
        options = {"login": ("ann@example.com", "sécret"), "mechanisms": offered}
        async with listening(tmp_path, **options) as (_, port):
            url = f"smtp://ann%40example.com:s%C3%A9cret@127.0.0.1:{port}"
            assert await delivers(await tried(url))
            assert asked == [mechanism]
            refusal = await tried(f"smtp://ann%40example.com:wrong@127.0.0.1:{port}")
            assert isinstance(refusal, NotSent)
            assert (refusal.stage, refusal.kind) == (Stage.AUTH, Kind.STREAM_FAULT)
            assert refusal.code == 535

    run(talk())


LOGIN = b"250-peer.test\r\n250 AUTH LOGIN CRAM-MD5\r\n"


@pytest.mark.parametrize(
    ("answer", "kind", "lines"),
    [
        (b"535 5.7.8 no\r\n", Kind.STREAM_FAULT, 1),
        (b"454 4.7.0 later\r\n", Kind.DEFERRED, 1),
        (b"235 welcome\r\n", Kind.DEFERRED, 1),
    ],
)
def test_a_login_that_goes_another_way_ends_before_the_password(
    run: Run, answer: bytes, kind: Kind, lines: int
) -> None:
    async def talk() -> None:
        async with Peer(EHLO=LOGIN, AUTH=answer) as peer:
            refusal = await tried(f"smtp://ann:secret@127.0.0.1:{peer.port}")
            assert isinstance(refusal, NotSent)
            assert (refusal.stage, refusal.kind) == (Stage.AUTH, kind)
            assert peer.heard[1:] == ["AUTH LOGIN"] * lines

    run(talk())


def test_login_never_goes_in_the_clear_to_another_machine(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.send.channel.is_loopback_address", lambda host: False)

    async def talk() -> None:
        async with Peer(EHLO=LOGIN) as peer:
            refusal = await tried(f"smtp://ann:secret@127.0.0.1:{peer.port}?starttls=optional")
            assert isinstance(refusal, NotSent)
            assert (refusal.stage, refusal.kind) == (Stage.AUTH, Kind.STREAM_FAULT)
            assert peer.heard == ["EHLO me.test"]

    run(talk())


def test_a_relay_with_neither_way_is_a_fault_of_the_stream(run: Run) -> None:
    async def talk() -> None:
        async with Peer(EHLO=b"250-peer.test\r\n250 AUTH CRAM-MD5 XOAUTH2\r\n") as peer:
            refusal = await tried(f"smtp://ann:secret@127.0.0.1:{peer.port}")
            assert isinstance(refusal, NotSent)
            assert refusal.kind is Kind.STREAM_FAULT
            assert "neither AUTH PLAIN nor AUTH LOGIN" in refusal.cause

    run(talk())
