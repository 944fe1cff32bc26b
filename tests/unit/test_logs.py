"""Logs: JSON in a pipe, one shape for ours and Celery's, and never an address."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from workers import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = {n: logging.getLogger(n).level for n in logs.QUIET}
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level
        for name, was in before.items():
            logging.getLogger(name).setLevel(was)
        logging.captureWarnings(False)
        structlog.reset_defaults()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("zoe@example.com", "[address]"),
        ("to <Zoé.O'Neil+x@mail.example.co.uk>,", "to <[address]>,"),
        ('"zoe smith"@example.com', "[address]"),
        ("post@[192.0.2.1]", "[address]"),
        ("zoe@localhost", "[address]"),
        ("zoë@bücher.example", "[address]"),
        ("?to=zoe%40example.com&x", "[address]&x"),
        ("redis://:hunter2@127.0.0.1:6379/0", "redis://***@127.0.0.1:6379/0"),
        ("smtp://zoe:hunter2@mail.example.com", "smtp://***@mail.example.com"),
        ("send@worker-1 ready", "send@worker-1 ready"),
        ("gen42@host", "gen42@host"),
        ("send@example.com", "[address]"),
        ("bad\nDETAIL:  Key (address)=(x) exists.", "bad\n[row]"),
        ("no [parameters: {'first_name': 'Zoe'}]", "no [row]"),
        ("3 of 4 messages, epoch 7", "3 of 4 messages, epoch 7"),
    ],
)
def test_what_looks_like_an_address_or_a_secret_is_taken_out(text: str, shown: str) -> None:
    assert logs.redact(text) == shown


def test_a_line_says_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", pool="send")
    with structlog.contextvars.bound_contextvars(task="send.deliver"):
        structlog.get_logger().info("mail_sent", message=7, epoch=2)
    (line,) = lines(capsys.readouterr().err)
    assert line.pop("at").endswith("Z")
    assert line == {
        "event": "mail_sent", "level": "info", "pool": "send", "task": "send.deliver",
        "message": 7, "epoch": 2,
    }  # fmt: skip


def test_celerys_own_lines_go_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", pool="send")
    logging.getLogger("celery.worker").error("lost %s of %s", 3, "zoe@example.com")
    logging.getLogger("celery.beat").info("Scheduler: Sending due task")
    (line,) = lines(capsys.readouterr().err)
    assert (line["event"], line["pool"], line["level"]) == ("lost 3 of [address]", "send", "error")


def test_no_value_key_or_traceback_carries_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug")
    who = "zoe@example.com"
    try:
        raise ValueError(f"cannot write to {who}")
    except ValueError:
        structlog.get_logger().exception("failed", rows=[{who: (who, who.encode())}], obj={who})
        logging.getLogger("any").exception("failed for %s", who)
    text = capsys.readouterr().err
    assert "ValueError" in text and "zoe" not in text
    assert len(lines(text)) == 2


def test_a_terminal_gets_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", json=False)
    structlog.get_logger().info("mail_sent", message=7)
    text = capsys.readouterr().err
    assert "mail_sent" in text and not text.startswith("{")
