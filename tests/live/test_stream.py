"""`dripfleet stream`: the way back after a relay refused us."""

from __future__ import annotations

import json

import pytest

from models.session import Database
from workers.cli import main
from workers.cli.render import ExitCode


def test_a_stream_is_paused_and_resumed_and_says_why(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    assert main(["stream", "pause", "marketing", "--reason", "wrong password"]) == ExitCode.OK
    assert main(["stream", "list"]) == ExitCode.OK
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["marketing"]["pause_reason"] == "wrong password"
    assert rows["transactional"]["paused_at"] is None
    assert main(["stream", "resume", "marketing"]) == ExitCode.OK
    assert main(["stream", "list"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)[0]["paused_at"] is None


def test_a_stream_is_sent_from_a_region_until_it_is_taken_out_of_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    assert main(["stream", "set", "marketing", "--region", "eu"]) == ExitCode.OK
    said = capsys.readouterr().err
    assert "is sent from region eu" in said and "`dripfleet worker send --region eu`" in said
    assert main(["stream", "list"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)[0]["region"] == "eu"
    assert main(["stream", "set", "marketing", "--no-region"]) == ExitCode.OK
    assert main(["stream", "set", "marketing", "--no-region"]) == ExitCode.OK
    assert "as before" in capsys.readouterr().err
    assert main(["stream", "list"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)[0]["region"] is None
    for wrong in (["--region", "E U"], [], ["--region", "eu", "--no-region"]):
        assert main(["stream", "set", "marketing", *wrong]) == ExitCode.USAGE


def test_a_stream_that_is_not_there_is_one_sentence(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    assert main(["stream", "resume", "mars"]) == ExitCode.FAULT
    assert "expected one of marketing, transactional" in capsys.readouterr().err
