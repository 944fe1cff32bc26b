"""One mail's life is one trace, from the planner's scan to the committed reply."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import text

from tasks import trace
from tests.live.fleet import Fleet, Make, eventually

pytest.importorskip("opentelemetry.sdk", reason="the extra `trace` is not installed")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from workers.spans import OpenTelemetrySpans, provided

LIFE = [trace.HAND_OFF, *trace.STEPS]
BATCHES = {"plan", "answer"}


class Drawn:
    """What was exported, by trace."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def lives(self) -> dict[int, list[ReadableSpan]]:
        found: dict[int, list[ReadableSpan]] = {}
        for span in sorted(self.spans(), key=lambda s: s.start_time or 0):
            if span.name in LIFE and span.context is not None:
                found.setdefault(span.context.trace_id, []).append(span)
        return found

    def batch(self, name: str) -> ReadableSpan:
        (span,) = (span for span in self.spans() if span.name == name)
        return span


@pytest.fixture
def drawn(request: pytest.FixtureRequest) -> Iterator[Drawn]:
    share = getattr(request, "param", 1.0)
    exporter = InMemorySpanExporter()
    spans = OpenTelemetrySpans(provided(exporter, pool="test", at_once=True), share)
    before = trace.use(spans)
    yield Drawn(exporter)
    trace.use(before)
    spans.close()


def keys(fleet: Fleet) -> dict[int, bytes]:
    """Trace id → effect key of every message."""
    with fleet.database.transaction() as connection:
        rows = connection.execute(text("SELECT effect_key FROM message"))
        return {int.from_bytes(sha256(key).digest()[:16]): key for key in rows.scalars()}


def said(spans: list[ReadableSpan], name: str) -> list[Any]:
    return [(span.attributes or {}).get(name) for span in spans]


def test_one_mail_is_one_trace_with_its_spans_in_order(drawn: Drawn, fleet: Fleet) -> None:
    fleet.enrolled(3)
    fleet.send()
    lives = drawn.lives()
    assert lives.keys() == keys(fleet).keys()
    for spans in lives.values():
        assert [span.name for span in spans] == LIFE
        root, *steps = spans
        assert root.parent is None and root.context is not None
        assert {span.parent and span.parent.span_id for span in steps} == {root.context.span_id}
        assert said(spans, "dripfleet.outcome") == [
            "scheduled", "working", "ready", "offered", "armed", "accepted", "accepted",
        ]  # fmt: skip
        assert said(steps, "dripfleet.epoch") == [1] * 6
        assert len(set(said(steps, "dripfleet.message"))) == 1
        assert all((s.start_time or 0) <= (s.end_time or 0) for s in spans)


def test_batches_stand_in_traces_of_their_own_and_are_linked_to(drawn: Drawn, fleet: Fleet) -> None:
    fleet.enrolled(2)
    fleet.send()
    for life in drawn.lives().values():
        for span, batch in zip(life[:2], ("plan", "answer"), strict=True):
            assert [link.context for link in span.links] == [drawn.batch(batch).context]
    assert (drawn.batch("answer").attributes or {})["dripfleet.messages"] == 2
    assert {span.name for span in drawn.spans()} == {*LIFE, *BATCHES}


def test_a_second_attempt_goes_on_in_the_same_trace(drawn: Drawn, fleet_with: Make) -> None:
    fleet = fleet_with("dot:451,limit=1")
    fleet.enrolled(1)

    def sent() -> bool:
        fleet.send()
        return fleet.states() == {"sent": 1}

    eventually(sent)
    (spans,) = drawn.lives().values()
    assert [span.name for span in spans] == [*LIFE, *trace.STEPS]
    assert said(spans, "dripfleet.epoch") == [None, *[1] * 6, *[2] * 6]
    assert [o for s, o in zip(spans, said(spans, "dripfleet.outcome"), strict=True)
            if s.name == "dot"] == ["deferred", "accepted"]  # fmt: skip
    assert said(spans, "smtp.code")[5] == 451


def test_a_refusal_is_drawn_with_its_stage(drawn: Drawn, fleet_with: Make) -> None:
    fleet = fleet_with("rcpt:554")
    fleet.enrolled(1)
    fleet.send()
    (spans,) = drawn.lives().values()
    last = spans[-1]
    assert [span.name for span in spans] == LIFE[:4]
    assert (last.attributes or {})["dripfleet.stage"] == "rcpt"
    assert (last.attributes or {})["dripfleet.kind"] == "refused"
    assert not last.status.is_ok


def test_no_span_holds_an_address_or_a_relays_text(drawn: Drawn, fleet_with: Make) -> None:
    fleet = fleet_with("rcpt:550,limit=1")
    fleet.enrolled(3)
    fleet.send()
    exported = "".join(span.to_json() for span in drawn.spans())
    assert "example.com" not in exported and "@" not in exported
    assert "mailbox" not in exported and "Zoë" not in exported


@pytest.mark.parametrize("drawn", [0.5], indirect=True)
def test_the_share_is_judged_by_the_trace_id_alone(drawn: Drawn, fleet: Fleet) -> None:
    fleet.enrolled(40)
    fleet.send()
    lives = drawn.lives()
    assert lives.keys() == {key for key in keys(fleet) if key % 2**64 < 2**63}
    assert 5 < len(lives) < 35
    assert all([span.name for span in spans] == LIFE for spans in lives.values())


def test_who_answers_a_doorbell_goes_on_in_its_trace(drawn: Drawn) -> None:
    headers = trace.spans.rung("send.deliver")
    assert headers is not None
    with trace.spans.answering("send.deliver", headers["traceparent"]):
        pass
    ring, answer = drawn.batch("ring send.deliver"), drawn.batch("send.deliver")
    assert ring.context is not None and answer.context is not None and answer.parent is not None
    assert answer.context.trace_id == ring.context.trace_id
    assert answer.parent.span_id == ring.context.span_id


@pytest.mark.parametrize(
    "forged", ["", "x", "00-0-0-01", "00-" + "f" * 32 + "-" + "0" * 16 + "-01"]
)
def test_a_forged_header_stops_nothing(drawn: Drawn, forged: str) -> None:
    with trace.spans.answering("send.deliver", forged):
        pass
    assert drawn.batch("send.deliver").parent is None


def test_a_tick_that_nobody_rang_draws_nothing(drawn: Drawn) -> None:
    with trace.spans.answering("sequence.scan", None):
        pass
    assert drawn.spans() == ()
