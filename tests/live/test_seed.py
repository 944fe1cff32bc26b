"""Test mails: over the real relay and signed, marked, nobody's message, and to nobody who said stop."""

from __future__ import annotations

import json
from email import message_from_bytes, policy
from pathlib import Path

import dkim as dkimpy
import pytest
from sqlalchemy import text

from models.session import Database
from tasks.audience.address import address_hmac
from tasks.send.dkim import read_key
from tasks.send.tokens import Keys, read
from tests.live.test_signed import key
from workers.cli import main
from workers.cli.render import ExitCode
from workers.embedded.ledger import read_mail
from workers.embedded.sink import Sink

IDENTITIES = "an identity of the tests"
TOKENS = "a secret of the tests"


@pytest.fixture
def place(database: Database, sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    place = f"example.com/s={key(tmp_path)}"
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "DATABASE_URL": database.url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "MODEL_URL": "http://127.0.0.1:9/v1",
        "SMTP_URL": sink.url,
        "SECRET_ADDRESS": IDENTITIES,
        "SECRET_MESSAGE_ID": TOKENS,
        "SECRET_TOKEN": TOKENS,
        "DKIM_KEYS": place,
        "EDGE_URL": "https://go.example.com",
    }.items():
        monkeypatch.setenv(f"DRIPFLEET_{name}", value)
    return place


def test_a_test_mail_is_a_real_one_and_nobodys(
    database: Database,
    sink: Sink,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DRIPFLEET_SEED_LIST", "a@example.net b@example.net")
    with database.transaction() as connection:
        values = {"hmac": address_hmac(IDENTITIES.encode(), "b@example.net")}
        connection.execute(
            text(
                "INSERT INTO suppression (address_hmac, scope, reason) VALUES (:hmac, 'all', 'x')"
            ),
            values,
        )
    assert main(["content", "send", "win-back/hello"]) == ExitCode.FINDINGS
    told = {each["to"]: each["outcome"] for each in json.loads(capsys.readouterr().out)}
    assert told == {"a@example.net": "accepted", "b@example.net": "not sent"}
    (line,) = sink.lines()
    octets = read_mail(sink.ledger.parent, line)
    record = read_key(place).record.encode()
    assert dkimpy.verify(octets, dnsfunc=lambda name, timeout=5: record)
    mail = message_from_bytes(octets, policy=policy.default)
    assert mail["Subject"] == "[Test] It has been a while, Ada" and mail["To"] == "a@example.net"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    token = mail["List-Unsubscribe"].partition("/u/")[2].partition(">")[0]
    assert read(Keys.of("k1", TOKENS), "unsubscribe", token) == (0,), "genuine, and of no message"
    with database.transaction() as connection:
        for table in ("message", "subscriber", "enrollment", "counter"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0


def test_what_makes_no_test_mail_is_one_sentence(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for line, code, said in (
        ("win-back/hello", ExitCode.USAGE, "expected 1 to 50 addresses"),
        ("win-back/hello --to nonsense", ExitCode.USAGE, "'nonsense'"),
        ("win-back/hello --to a@example.net --stream none", ExitCode.FAULT, "no stream 'none'"),
        ("no/such --to a@example.net", ExitCode.FAULT, "no/such"),
    ):
        assert main(["content", "send", *line.split()]) == code
        assert said in capsys.readouterr().err
    monkeypatch.setenv("DRIPFLEET_SMTP_URL", "smtp://relay.example.net")
    assert main(["content", "send", "win-back/hello", "--to", "a@example.net"]) == ExitCode.FAULT
    assert "as hello@example.com" in capsys.readouterr().err
