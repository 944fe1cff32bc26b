"""Traces that nobody asked for: nothing is kept, nothing is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from tasks import trace
from workers.tracing import TraceSettings, start, stop

IMPORTS_NOTHING = """
import sys
from workers.tracing import TraceSettings, start, stop
assert start(TraceSettings(), "send") is False
stop()
from tasks.send import lane, store
from tasks.sequence import store
assert not any(name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf"))
               for name in sys.modules)
"""


def test_by_default_nothing_is_drawn_and_every_call_is_empty() -> None:
    assert TraceSettings().trace == 0
    assert not start(TraceSettings(), "send")
    off = trace.spans
    assert type(off) is trace.Spans and not vars(off)
    assert off.now() == 0
    assert off.rung("send.deliver") is None
    with off.answering("send.deliver", "00-" + "1" * 32 + "-" + "1" * 16 + "-01"):
        pass


def test_off_imports_nothing_of_opentelemetrys_sdk() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_NOTHING], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_without_the_extra_a_worker_works_on_untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert not start(TraceSettings(trace=1), "send")
    assert type(trace.spans) is trace.Spans


def test_it_starts_where_it_is_asked_for_and_stops() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp", reason="the extra `trace` is missing")
    assert start(TraceSettings(trace=0.5), "send")
    assert type(trace.spans) is not trace.Spans
    stop()
    assert type(trace.spans) is trace.Spans


@pytest.mark.parametrize("share", [-0.1, 1.1, "often"])
def test_a_share_is_between_none_and_all(share: object) -> None:
    with pytest.raises(ValidationError):
        TraceSettings.model_validate({"trace": share})
