"""What the command line says, hands out and ends with."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys

import pytest

from models.session import Database
from tasks.errors import Misconfigured
from workers.cli import main
from workers.cli.render import ExitCode, emit, number, plain, progress, say
from workers.cli.verdict import verdict


def test_data_goes_to_stdout_and_talk_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("working")
    emit([{"name": "Zoë", "at": dt.datetime(2026, 3, 1, tzinfo=dt.UTC), "key": b"\x01"}])
    out, err = capsys.readouterr()
    assert json.loads(out) == [{"name": "Zoë", "at": "2026-03-01T00:00:00+00:00", "key": "01"}]
    assert err == "working\n"


def test_a_terminal_gets_a_table_without_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    emit([{"first_name": "Z\x1b[31moë [bold]", "n": None}], title="people")
    out = capsys.readouterr().out
    assert "first name" in out and "people" in out and "[bold]" in out
    assert "\x1b[31m" not in out


def test_a_time_stays_in_one_piece_however_narrow_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    at = dt.datetime(2026, 3, 1, 9, 30, 0, 123456, tzinfo=dt.UTC)
    emit([{"says": "word " * 20, "fire_at": at, "more": "word " * 20}])
    assert "2026-03-01 09:30:00Z" in capsys.readouterr().out


def test_a_terminal_gets_json_if_it_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    emit({"a": 1}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_every_kind_of_value_has_a_plain_form() -> None:
    assert plain((dt.timedelta(minutes=1), dt.date(2026, 1, 2), ExitCode.FAULT, {1: None})) == [
        60.0,
        "2026-01-02",
        1,
        {"1": None},
    ]
    assert number(1234567) == "1 234 567"


def test_progress_into_a_pipe_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 9.0, 9.0])
    monkeypatch.setattr("workers.cli.render.time.monotonic", lambda: next(clock))
    with progress("importing") as bar:
        bar.show(1, 10, "early")
        bar.show(5, 10, "later")
    assert capsys.readouterr().err == "importing: 50% later\n"


def test_a_dead_server_is_unreachable_and_its_password_is_not_shown() -> None:
    database = Database("postgresql://me:hush@127.0.0.1:1/none")
    with pytest.raises(Exception) as caught, database.transaction():
        pass
    code, sentence = verdict(caught.value)
    assert code == ExitCode.UNREACHABLE
    assert "DRIPFLEET_DATABASE_URL" in sentence
    assert "hush" not in sentence and "\n" not in sentence


def test_our_own_errors_speak_for_themselves() -> None:
    assert verdict(Misconfigured("set X")) == (ExitCode.FAULT, "set X")


def test_a_surprise_is_one_sentence_that_says_how_to_see_more() -> None:
    code, sentence = verdict(ZeroDivisionError("division by zero\nat length"))
    assert code == ExitCode.FAULT
    assert "ZeroDivisionError" in sentence and "DRIPFLEET_DEBUG=1" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "nonsense"),
        (["subscribers", "import"], "file"),
        (["subscribers", "import", "/nowhere/at/all.csv"], "/nowhere/at/all.csv"),
        (["events", "import", "-"], "--source"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_exit_code_2(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert word in err and "--help" in err and len(err.splitlines()) == 1


def test_a_dead_server_ends_a_command_with_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", "postgresql://me:hush@127.0.0.1:1/none")
    monkeypatch.setenv("DRIPFLEET_SECRET_ADDRESS", "a secret of the tests")
    assert main(["subscribers", "show", "zoe@example.com"]) == ExitCode.UNREACHABLE
    err = capsys.readouterr().err
    assert "Traceback" not in err and "hush" not in err


def test_help_loads_no_database_and_no_celery() -> None:
    code = (
        "import sys; from workers.cli import main; main(['--help']);"
        "heavy = {'sqlalchemy', 'psycopg', 'celery', 'redis', 'pydantic', 'pandas', 'cirq'};"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "subscribers" in done.stdout
