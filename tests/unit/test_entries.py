"""What every entry point does with a strange payload, a fault, and a broker that is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from celery import Celery

from tasks import base, names
from tasks.base import FleetTask, ring
from tasks.errors import Misconfigured, Permanent, Snooze, Transient
from workers.celery import build
from workers.settings import RedisSettings

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    # A logger that another test of this process has used keeps the processors it found then.
    monkeypatch.setattr(base, "log", structlog.get_logger(base.__name__))


@pytest.fixture
def app() -> Iterator[Celery]:
    # Nothing listens there.
    made = build(None, RedisSettings(redis_url="redis://127.0.0.1:1/0"))
    yield made
    made.close()


def outcome(app: Celery, entry: Run, **payload: Any) -> tuple[Any, list[Any]]:
    """What the entry came to, and the log lines that it caused."""
    task = app.task(base=FleetTask, name="test.entry", shared=False)(entry)
    with structlog.testing.capture_logs() as lines:
        result = task.apply(kwargs=payload)
    return result.result, lines


def test_the_version_is_checked_and_taken_off(app: Celery) -> None:
    def entry(n: int) -> dict[str, int]:
        return {"n": n}

    assert outcome(app, entry, v=1, n=3)[0] == {"n": 3}


@pytest.mark.parametrize("payload", [{"v": 2}, {}, {"v": "1"}])
def test_a_payload_of_another_version_is_dropped_with_a_line(
    app: Celery, payload: dict[str, Any]
) -> None:
    def entry() -> None:
        raise AssertionError("it ran")

    result, lines = outcome(app, entry, **payload)
    assert result == {"dropped": "version"}
    assert [line["event"] for line in lines] == ["payload_dropped"]


@pytest.mark.parametrize(
    ("fault", "seen", "line"),
    [
        (Snooze("paused"), {"snoozed": True}, "task_snoozed"),
        (Transient("no connection"), {"put_off": "Transient"}, "task_put_off"),
    ],
)
def test_what_comes_back_by_itself_is_no_failure(
    app: Celery, fault: Exception, seen: object, line: str
) -> None:
    def entry() -> None:
        raise fault

    result, lines = outcome(app, entry, v=1)
    assert result == seen and [one["event"] for one in lines] == [line]


@pytest.mark.parametrize("kind", [ValueError, Permanent, Misconfigured])
def test_flower_sees_the_type_of_a_failure_and_never_its_text(
    app: Celery, kind: type[Exception]
) -> None:
    def entry() -> None:
        raise kind("zoe@example.com is not a mailbox")

    result, lines = outcome(app, entry, v=1)
    assert isinstance(result, base.Failed)
    assert str(result) == kind.__name__ and result.__cause__ is None
    assert len(lines) == 1 and lines[0]["log_level"] == "error"


def test_a_doorbell_that_cannot_be_rung_is_a_line_and_no_fault(app: Celery) -> None:
    began = time.monotonic()
    with structlog.testing.capture_logs() as lines:
        assert ring(names.SCAN, names.tick()) is False
    assert time.monotonic() - began < 3
    assert [line["event"] for line in lines] == ["doorbell_lost"]


def test_a_process_without_a_database_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "_database", None)
    with pytest.raises(Misconfigured, match="dripfleet worker POOL"):
        base.database()
