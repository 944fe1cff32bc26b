from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.errors import Misconfigured
from workers.embedded.ledger import Spool, message_id
from workers.embedded.sink import Fault, Faults, Sink, in_thread, read_ledger, read_mail, start_sink

MAIL = b"Message-ID: <one@example.com>\r\nSubject: Hi\r\n\r\nHello\r\n"
ENVELOPE = b"MAIL FROM:<a@example.com> BODY=8BITMIME\r\nRCPT TO:<ann@example.com>\r\nDATA\r\n"


class Client:
    """A socket that reads SMTP replies one at a time."""

    def __init__(self, sink: Sink) -> None:
        self.socket = socket.create_connection((sink.host, sink.port), timeout=5)
        self.file = self.socket.makefile("rb")

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hear(self) -> bytes:
        """The next whole reply, b"" at the end of the connection."""
        reply = b""
        while True:
            try:
                line = self.file.readline()
            except ConnectionResetError:
                return b""
            reply += line
            if not line or line[3:4] != b"-":
                return reply

    def ask(self, data: bytes) -> bytes:
        self.say(data)
        return self.hear()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@contextlib.contextmanager
def talking(sink: Sink, *, greet: bool = True) -> Iterator[Client]:
    client = Client(sink)
    try:
        if greet:
            assert client.hear().startswith(b"220 ")
            assert client.ask(b"EHLO client.example\r\n").startswith(b"250-")
        yield client
    finally:
        client.close()


def until_body(client: Client) -> None:
    client.say(ENVELOPE)
    assert [client.hear()[:3] for _ in range(3)] == [b"250", b"250", b"354"]


def eventually(condition: object, seconds: float = 5.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def test_the_extensions_are_offered(tmp_path: Path) -> None:
    with in_thread(tmp_path) as sink, smtplib.SMTP(sink.host, sink.port) as client:
        client.ehlo()
        features = client.esmtp_features
    assert {"pipelining", "8bitmime", "size", "enhancedstatuscodes", "smtputf8"} == set(features)


def test_a_mail_is_in_the_ledger_before_its_250(tmp_path: Path) -> None:
    with in_thread(tmp_path, latency=30.0) as sink, talking(sink) as client:
        until_body(client)
        client.say(MAIL + b".\r\n")
        eventually(lambda: sink.lines())
        client.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        (line,) = sink.lines()
    assert (line.message_id, line.rcpt, line.sender) == (
        "<one@example.com>",
        "ann@example.com",
        "a@example.com",
    )
    assert line.sha256 == hashlib.sha256(MAIL).hexdigest()
    assert line.at.utcoffset() is not None


def test_a_mail_can_be_read_again_byte_for_byte(tmp_path: Path) -> None:
    with in_thread(tmp_path) as sink, talking(sink) as client:
        for _ in range(2):
            until_body(client)
            assert client.ask(MAIL + b".\r\n").startswith(b"250 2.0.0 Ok: queued as ")
        lines = sink.lines()
    assert [read_mail(tmp_path, line) for line in lines] == [MAIL, MAIL]
    assert len({line.id for line in lines}) == 2


def test_two_mails_may_come_in_one_packet(tmp_path: Path) -> None:
    with in_thread(tmp_path) as sink, talking(sink) as client:
        client.say((ENVELOPE + MAIL + b".\r\n") * 2 + b"QUIT\r\n")
        codes = [client.hear()[:3] for _ in range(9)]
        assert client.hear() == b""
        assert len(sink.lines()) == 2
    assert codes == [b"250", b"250", b"354", b"250"] * 2 + [b"221"]


def test_a_dot_may_share_its_packet_with_the_next_envelope(tmp_path: Path) -> None:
    with in_thread(tmp_path) as sink, talking(sink) as client:
        until_body(client)
        client.say(MAIL)
        client.say(b".\r\n" + ENVELOPE)
        assert [client.hear()[:3] for _ in range(4)] == [b"250", b"250", b"250", b"354"]
        assert client.ask(MAIL + b".\r\n").startswith(b"250")
        assert [line.sha256 for line in sink.lines()] == [hashlib.sha256(MAIL).hexdigest()] * 2


@pytest.mark.parametrize(
    ("wire", "kept"),
    [
        (b"..one\r\n...two\r\nthree..\r\n", b".one\r\n..two\r\nthree..\r\n"),
        (b"", b""),
        (b"\n.\nnot the end\r.\r\n", b"\n.\nnot the end\r.\r\n"),
    ],
    ids=["stuffed", "empty", "bare line ends"],
)
def test_dots_are_unstuffed_and_only_crlf_dot_crlf_ends(
    tmp_path: Path, wire: bytes, kept: bytes
) -> None:
    with in_thread(tmp_path) as sink, talking(sink) as client:
        until_body(client)
        assert client.ask(wire + b".\r\n").startswith(b"250")
        (line,) = sink.lines()
    assert read_mail(tmp_path, line) == kept
    assert line.bytes == len(kept)


def test_the_end_is_found_across_any_packet_border(tmp_path: Path) -> None:
    with in_thread(tmp_path) as sink, talking(sink) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until_body(client)
        for octet in MAIL[-8:] + b".\r\n":
            client.say(bytes([octet]))
        assert client.hear().startswith(b"250")
        (line,) = sink.lines()
    assert read_mail(tmp_path, line) == MAIL[-8:]


def test_each_recipient_has_a_ledger_line(tmp_path: Path) -> None:
    with in_thread(tmp_path) as sink, smtplib.SMTP(sink.host, sink.port) as client:
        client.sendmail("a@example.com", ["ann@example.com", "bob@example.com"], MAIL)
        assert [line.rcpt for line in sink.lines()] == ["ann@example.com", "bob@example.com"]
        assert sink.stats()["mails"] == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (b"NONSENSE\r\n", b"500"),
        (b"RCPT TO:<a@example.com>\r\n", b"503"),
        (b"DATA\r\n", b"503"),
        (b"MAIL FROM:a@example.com\r\n", b"501"),
        (b"MAIL FROM:<a@example.com> SIZE=99999999\r\n", b"552"),
        (b"MAIL FROM:<a@example.com> COLOR=RED\r\n", b"555"),
        (b"STARTTLS\r\n", b"502"),
        (b"X" * 5000, b"500"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, command: bytes, code: bytes) -> None:
    with in_thread(tmp_path) as sink, talking(sink) as client:
        assert client.ask(command)[:3] == code


@pytest.mark.parametrize("stage", ["ehlo", "mail", "rcpt", "data", "body", "dot"])
@pytest.mark.parametrize("code", [451, 550])
def test_a_code_answers_at_its_stage_once(tmp_path: Path, stage: str, code: int) -> None:
    plan = Faults([Fault(stage, "code", code, limit=1)])
    with in_thread(tmp_path, faults=plan) as sink, talking(sink, greet=False) as client:
        client.hear()
        said = {
            "ehlo": b"EHLO client.example\r\n",
            "mail": b"MAIL FROM:<a@example.com>\r\n",
            "rcpt": b"RCPT TO:<ann@example.com>\r\n",
            "data": b"DATA\r\n",
            "body": b"Subject: half\r\n",
            "dot": b".\r\n",
        }
        for name, command in said.items():
            if name == "body" != stage:
                client.say(command)
                continue
            reply = client.ask(command)
            assert reply.startswith(str(code).encode()) == (name == stage)
            if name == stage:
                break
        assert sink.lines() == []
        assert sink.faults.fired == {f"{stage}:{code}": 1}


def test_a_connection_can_be_refused_at_its_greeting(tmp_path: Path) -> None:
    plan = Faults.parse(["connect:554,limit=1", "connect:close,limit=1"])
    with in_thread(tmp_path, faults=plan) as sink:
        with talking(sink, greet=False) as client:
            assert client.hear().startswith(b"554")
            assert client.hear() == b""
        with talking(sink, greet=False) as client:
            assert client.hear() == b""
        with talking(sink):
            pass
        assert set(sink.faults.fired.values()) == {1}


@pytest.mark.parametrize("stage", ["ehlo", "mail", "rcpt", "data", "body", "dot"])
def test_a_connection_can_end_at_each_stage(tmp_path: Path, stage: str) -> None:
    with (
        in_thread(tmp_path, faults=Faults.parse([f"{stage}:close"])) as sink,
        talking(sink, greet=False) as client,
    ):
        client.say(b"EHLO client.example\r\n" + ENVELOPE + MAIL + b".\r\n")
        heard = 0
        while client.hear():
            heard += 1
        before = ["connect", "ehlo", "mail", "rcpt", "data", "dot"]
        assert heard == before.index("dot" if stage == "body" else stage)
        assert sink.lines() == []
        assert sink.faults.fired[f"{stage}:close"] == 1


def test_accept_then_drop_leaves_a_ledger_line_and_no_reply(tmp_path: Path) -> None:
    plan = Faults.parse(["dot:accept_then_drop"])
    with in_thread(tmp_path, faults=plan) as sink, talking(sink) as client:
        until_body(client)
        assert client.ask(MAIL + b".\r\n") == b""
        (line,) = sink.lines()
        assert line.fault == "dot:accept_then_drop"


def test_drop_leaves_neither(tmp_path: Path) -> None:
    plan = Faults.parse(["dot:drop"])
    with in_thread(tmp_path, faults=plan) as sink, talking(sink) as client:
        until_body(client)
        assert client.ask(MAIL + b".\r\n") == b""
        assert sink.lines() == []


@pytest.mark.parametrize("stage", ["connect", "ehlo", "mail", "rcpt", "data", "body", "dot"])
@pytest.mark.parametrize("action", ["stall", "drip"])
def test_a_late_answer_is_the_right_one_and_in_order(
    tmp_path: Path, stage: str, action: str
) -> None:
    plan = Faults.parse([f"{stage}:{action},seconds=0.003"])
    with in_thread(tmp_path, faults=plan) as sink, talking(sink, greet=False) as client:
        client.say(b"EHLO client.example\r\n" + ENVELOPE + MAIL + b".\r\nQUIT\r\n")
        codes = [client.hear()[:3] for _ in range(7)]
        assert codes == [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]
        assert len(sink.lines()) == 1
        assert sum(sink.faults.fired.values()) == 1


@pytest.mark.parametrize("stage", ["connect", "ehlo", "mail", "rcpt", "data", "dot"])
def test_garbage_takes_the_place_of_the_answer(tmp_path: Path, stage: str) -> None:
    plan = Faults.parse([f"{stage}:garbage"])
    with in_thread(tmp_path, faults=plan) as sink, talking(sink, greet=False) as client:
        client.say(b"EHLO client.example\r\n" + ENVELOPE + MAIL + b".\r\n")
        replies = [client.hear() for _ in range(6)]
        at = ["connect", "ehlo", "mail", "rcpt", "data", "dot"].index(stage)
        assert [not r[:3].isdigit() for r in replies] == [i == at for i in range(6)]
        assert len(sink.lines()) == 1


def test_a_slow_reader_still_takes_the_whole_mail(tmp_path: Path) -> None:
    body = MAIL + b"x" * 70 + b"\r\n"
    plan = Faults.parse(["body:drip,seconds=0.002"])
    with in_thread(tmp_path, faults=plan) as sink, talking(sink) as client:
        until_body(client)
        for at in range(0, len(body), 40):
            client.say(body[at : at + 40])
        assert client.ask(b".\r\n").startswith(b"250")
        (line,) = sink.lines()
    assert read_mail(tmp_path, line) == body


def test_a_recipient_pattern_meets_only_its_recipients(tmp_path: Path) -> None:
    plan = Faults.parse(["rcpt:550,rcpt=gone*"], bounce_addresses=True)
    with in_thread(tmp_path, faults=plan) as sink, talking(sink) as client:
        client.ask(b"MAIL FROM:<>\r\n")
        assert client.ask(b"RCPT TO:<Gone@example.com>\r\n").startswith(b"550")
        assert client.ask(b"RCPT TO:<bounce+451x@example.com>\r\n").startswith(b"451")
        assert client.ask(b"RCPT TO:<ann@example.com>\r\n").startswith(b"250")
        assert sink.faults.fired == {"rcpt:550,rcpt=gone*": 1, "bounce+451": 1}


def test_the_same_seed_draws_the_same_faults() -> None:
    def draws(seed: int) -> list[bool]:
        plan = Faults.parse(["dot:drop,p=0.3"], seed=seed)
        return [plan.pick("dot") is not None for _ in range(200)]

    assert draws(7) == draws(7) != draws(8)
    assert 30 < sum(draws(7)) < 90


@pytest.mark.parametrize(
    "text",
    [
        "dot",
        "dott:close",
        "dot:explode",
        "dot:250",
        "mail:drop",
        "mail:451,rcpt=x*",
        "dot:drop,p=2",
        "dot:drop,q=1",
        "dot:drop,limit=x",
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Fault"):
        Faults.parse([text])


def test_login_is_asked_for_and_checked(tmp_path: Path) -> None:
    with in_thread(tmp_path, login=("ann", "secret")) as sink, talking(sink) as client:
        assert client.ask(b"MAIL FROM:<>\r\n").startswith(b"530")
        wrong, right = (base64.b64encode(b"\0ann\0" + p) for p in (b"guess", b"secret"))
        assert client.ask(b"AUTH PLAIN " + wrong + b"\r\n").startswith(b"535")
        assert client.ask(b"AUTH PLAIN\r\n").startswith(b"334")
        assert client.ask(right + b"\r\n").startswith(b"235")
        assert client.ask(b"MAIL FROM:<>\r\n").startswith(b"250")


def test_login_in_two_lines_is_checked_too(tmp_path: Path) -> None:
    def said(word: bytes) -> bytes:
        return base64.b64encode(word) + b"\r\n"

    with in_thread(tmp_path, login=("ann", "secret")) as sink, talking(sink) as client:
        for password, code in ((b"guess", b"535"), (b"secret", b"235")):
            assert client.ask(b"AUTH LOGIN\r\n") == b"334 VXNlcm5hbWU6\r\n"
            assert client.ask(said(b"ann")) == b"334 UGFzc3dvcmQ6\r\n"
            assert client.ask(said(password)).startswith(code)
        assert client.ask(b"MAIL FROM:<>\r\n").startswith(b"250")
        sink.desk.mechanisms = (b"LOGIN",)
        assert b"AUTH LOGIN\r\n" in client.ask(b"EHLO client.example\r\n")
        assert client.ask(b"AUTH PLAIN\r\n").startswith(b"504")


def test_an_address_outside_ascii_needs_smtputf8(tmp_path: Path) -> None:
    recipient = "RCPT TO:<zoë@example.com>\r\n".encode()
    with in_thread(tmp_path) as sink, talking(sink) as client:
        assert client.ask(b"MAIL FROM:<a@example.com>\r\n").startswith(b"250")
        assert client.ask(recipient).startswith(b"553 5.6.7")
        client.ask(b"RSET\r\n")
        assert client.ask(b"MAIL FROM:<a@example.com> SMTPUTF8 BODY=8BITMIME\r\n")[:3] == b"250"
        assert client.ask(recipient).startswith(b"250")
        assert client.ask(b"RCPT TO:<\xff@example.com>\r\n").startswith(b"553")
        sink.desk.smtputf8 = False
        assert b"SMTPUTF8" not in client.ask(b"EHLO client.example\r\n")
        assert client.ask(b"MAIL FROM:<a@example.com> SMTPUTF8\r\n").startswith(b"555")


def test_a_ledger_cut_off_in_its_last_line_reads_and_is_mended(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.keep(MAIL, "", ["ann@example.com"])
    spool.close()
    ledger = tmp_path / "ledger.jsonl"
    with ledger.open("ab") as file:
        file.write(b'{"at": "2026-')
    assert len(list(read_ledger(ledger))) == 1
    spool = Spool(tmp_path)
    spool.keep(MAIL, "", ["bob@example.com"])
    spool.close()
    assert [line.rcpt for line in read_ledger(ledger)] == ["ann@example.com", "bob@example.com"]
    assert [read_mail(tmp_path, line) for line in read_ledger(ledger)] == [MAIL, MAIL]


def test_a_broken_line_within_a_ledger_is_named(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("{}\nnonsense\n")
    with pytest.raises(ValueError, match="line 1"):
        list(read_ledger(ledger))


def test_two_sinks_never_share_a_spool(tmp_path: Path) -> None:
    with (
        in_thread(tmp_path),
        pytest.raises(Misconfigured, match="Another sink"),
        in_thread(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("mail", "found"),
    [
        (b"message-id:\r\n <a@b>\r\n\r\n", "<a@b>"),
        (b"Subject: x\r\nMESSAGE-ID: <a@b>\r\n\r\nMessage-ID: <c@d>\r\n", "<a@b>"),
        (b"Subject: x\r\n\r\nMessage-ID: <c@d>\r\n", ""),
        (b"", ""),
    ],
)
def test_the_message_id_is_that_of_the_header(mail: bytes, found: str) -> None:
    assert message_id(mail) == found


def test_a_sink_process_starts_once_and_leaves_its_counts(tmp_path: Path) -> None:
    sink = start_sink(tmp_path, faults=["rcpt:550,rcpt=gone*", "mail:451,rcpt=*,limit=0"], seed=3)
    try:
        again = start_sink(tmp_path)
        assert (again.url, again.pid, again.owned) == (sink.url, sink.pid, False)
        port = int(sink.url.rpartition(":")[2])
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.sendmail("a@example.com", ["ann@example.com"], MAIL)
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("a@example.com", ["gone@example.com"], MAIL)
        shown = subprocess.run(
            [
                *(sys.executable, "-m", "workers.embedded.sink"),
                *("--spool", str(tmp_path), "--show", "one@example.com"),
            ],
            capture_output=True,
            check=True,
        )
        assert shown.stdout == MAIL
    finally:
        sink.stop()
    assert not sink.alive()
    stats = json.loads((tmp_path / "sink-stats.json").read_text())
    assert (stats["mails"], stats["seed"]) == (1, 3)
    assert stats["fired"] == {"rcpt:550,rcpt=gone*": 1, "mail:451,rcpt=*,limit=0": 0}


def test_a_killed_sink_loses_no_ledger_line_and_starts_again(tmp_path: Path) -> None:
    sink = start_sink(tmp_path)
    port = int(sink.url.rpartition(":")[2])
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("a@example.com", ["ann@example.com"], MAIL)
        sink.stop(immediate=True)
        client.close()
    again = start_sink(tmp_path, port=port)
    try:
        assert again.url == sink.url
        assert len(list(read_ledger(tmp_path / "ledger.jsonl"))) == 1
    finally:
        again.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.parametrize("fast", [False, True], ids=["asyncio", "uvloop"])
def test_starttls_forgets_what_was_said_before_it(tmp_path: Path, fast: bool) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    trusting = ssl.create_default_context(cafile=str(cert))
    trusting.check_hostname = False
    with (
        in_thread(tmp_path / "spool", tls=tls, login=("ann", "secret"), fast=fast) as sink,
        smtplib.SMTP(sink.host, sink.port) as client,
    ):
        client.ehlo()
        assert client.has_extn("starttls")
        assert not client.has_extn("auth")
        client.starttls(context=trusting)
        assert client.docmd("MAIL", "FROM:<a@example.com>")[0] == 503
        client.ehlo()
        assert not client.has_extn("starttls")
        client.login("ann", "secret")
        client.sendmail("a@example.com", ["ann@example.com"], MAIL)
        assert len(sink.lines()) == 1
