"""Spans by OpenTelemetry; imported only where they are asked for (see `workers.tracing`).

::

    hand_off ── root; trace id and span id are octets of sha256(effect key)
      ├ claim → render → offer → arm → dot → record          epoch 1
      └ claim → …                                            epoch 2, after a deferral or a crash
    plan · ring → send.deliver → answer    batches, in traces of their own; hand_off and claim link to them
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from typing import Final

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tasks import trace
from tasks.send.outcome import Accepted, Deferred, InDoubt, NotSent, Refused
from tasks.send.transport import Offered

_WORDS: Final[Mapping[type, str]] = {
    Offered: "offered", Accepted: "accepted", Deferred: "deferred", Refused: "refused",
    InDoubt: "in_doubt", NotSent: "not_sent",
}  # fmt: skip
_WRONG: Final = (NotSent, Refused, InDoubt)
SHUTDOWN: Final = 5_000  # ms that the end of a process waits for what is still to be exported
_NOBODY: Final = api.set_span_in_context(api.INVALID_SPAN)


class Ids(RandomIdGenerator):
    """Random ids, but within `next`: then those of a mail's root."""

    def __init__(self) -> None:
        self._given = threading.local()

    @contextmanager
    def next(self, digest: bytes) -> Iterator[None]:
        """The ids that a mail's digest holds, for the spans that this thread starts within."""
        self._given.digest = digest
        try:
            yield
        finally:
            self._given.digest = None

    def generate_trace_id(self) -> int:
        """16 octets."""
        digest: bytes | None = getattr(self._given, "digest", None)
        return super().generate_trace_id() if digest is None else int.from_bytes(digest[:16])

    def generate_span_id(self) -> int:
        """8 octets."""
        digest: bytes | None = getattr(self._given, "digest", None)
        return super().generate_span_id() if digest is None else int.from_bytes(digest[16:24])


class OpenTelemetrySpans(trace.Spans):
    """Draws with an OpenTelemetry provider whose ids `provided` made; see the module's text."""

    def __init__(self, provider: TracerProvider, share: float) -> None:
        assert isinstance(provider.id_generator, Ids), "the provider must come from `provided`"
        self._ids = provider.id_generator
        self._provider = provider
        self._tracer = provider.get_tracer("dripfleet")
        self._propagator = TraceContextTextMapPropagator()
        self._bound = round(share * 2**64)

    def now(self) -> int:
        """See `trace.Spans`, as for the others."""
        return time.time_ns()

    def handed_off(self, messages: Sequence[trace.Planned], began: int) -> None:
        """The roots of their traces, with ids that nobody needs to be told."""
        drawn = [(m, digest) for m in messages if (digest := self._digest(m.effect_key))]
        if not drawn:
            return
        batch = self._batch("plan", began, {"dripfleet.messages": len(messages)})
        link = api.Link(batch.get_span_context())
        for message, digest in drawn:
            with self._ids.next(digest):
                span = self._tracer.start_span(
                    trace.HAND_OFF,
                    _NOBODY,
                    attributes={
                        "dripfleet.enrollment": message.enrollment_id,
                        "dripfleet.step": message.step_id,
                        "dripfleet.stage": trace.HAND_OFF,
                        "dripfleet.outcome": message.state,
                    },
                    links=[link],
                    start_time=began,
                )
            span.end()
        batch.end()

    def claimed(self, stream: str, rows: Sequence[trace.Held], began: int) -> None:
        """A span for each row, linked to the batch, whose parent is the doorbell that is answered."""
        drawn = [row for row in rows if self._digest(row.effect_key)]
        if not drawn:
            return
        attributes: dict[str, str | int] = {
            "dripfleet.stream": stream,
            "dripfleet.messages": len(rows),
        }
        batch = self._batch("answer", began, attributes)
        link = api.Link(batch.get_span_context())
        for row in drawn:
            self._step("claim", row, began, "working", [link])
        batch.end()

    def step(self, name: str, mail: trace.Held, began: int, told: object) -> None:
        """A child of the mail's root, which may have been drawn by another process, or by none."""
        self._step(name, mail, began, told)

    def recorded(self, answers: Sequence[tuple[trace.Held, object]], began: int) -> None:
        """A span for each, all as long as their cycle."""
        for mail, told in answers:
            self._step("record", mail, began, told)

    def rung(self, doorbell: str) -> Mapping[str, str]:
        """Whoever answers goes on in the doorbell's trace; a mail's own needs no carrying."""
        span = self._tracer.start_span(
            f"ring {doorbell}", kind=api.SpanKind.PRODUCER, start_time=self.now()
        )
        carried: dict[str, str] = {}
        self._propagator.inject(carried, api.set_span_in_context(span))
        span.end()
        return carried

    def answering(self, doorbell: str, traceparent: str | None) -> AbstractContextManager[object]:
        """A forged header makes a strange picture and nothing else: it holds two ids."""
        if traceparent is None:
            return super().answering(doorbell, None)
        return self._tracer.start_as_current_span(
            doorbell,
            self._propagator.extract({"traceparent": str(traceparent)}),
            kind=api.SpanKind.CONSUMER,
            # What comes out of a task names a type and no more; its cause may hold an address.
            record_exception=False,
        )

    def close(self) -> None:
        """Export what waits, for a few seconds at most."""
        self._provider.force_flush(SHUTDOWN)
        self._provider.shutdown()

    def _digest(self, effect_key: bytes) -> bytes | None:
        """16 octets of trace id and 8 of its root's span id; None: this mail is not drawn."""
        digest = sha256(effect_key).digest()
        return digest if int.from_bytes(digest[8:16]) < self._bound else None

    def _batch(self, name: str, began: int, attributes: Mapping[str, str | int]) -> api.Span:
        return self._tracer.start_span(name, attributes=dict(attributes), start_time=began)

    def _parent(self, digest: bytes) -> Context:
        context = api.SpanContext(
            int.from_bytes(digest[:16]),
            int.from_bytes(digest[16:24]),
            is_remote=True,
            trace_flags=api.TraceFlags(api.TraceFlags.SAMPLED),
        )
        return api.set_span_in_context(api.NonRecordingSpan(context))

    def _step(
        self,
        name: str,
        mail: trace.Held,
        began: int,
        told: object,
        links: Sequence[api.Link] = (),
    ) -> None:
        digest = self._digest(mail.effect_key)
        if digest is None:
            return
        span = self._tracer.start_span(
            name,
            self._parent(digest),
            attributes={
                "dripfleet.message": mail.id,
                "dripfleet.epoch": mail.epoch,
                **_told(name, told),
            },
            links=links,
            start_time=began,
        )
        if isinstance(told, _WRONG):
            span.set_status(api.StatusCode.ERROR)
        span.end()


def provided(exporter: SpanExporter, *, pool: str = "", at_once: bool = False) -> TracerProvider:
    """A provider whose spans go to `exporter`: in batches, or for a test at once."""
    told: dict[str, str] = {"dripfleet.pool": pool} if pool else {}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        told[SERVICE_NAME] = "dripfleet"
    provider = TracerProvider(
        # The share is judged here, by the trace id, and never a second time.
        sampler=ALWAYS_ON,
        resource=Resource.create(told),
        id_generator=Ids(),
    )
    provider.add_span_processor(
        SimpleSpanProcessor(exporter) if at_once else BatchSpanProcessor(exporter)
    )
    return provider


def _told(stage: str, told: object) -> dict[str, str | int]:
    """What a span says of an outcome: words of ours and a code, never the relay's text."""
    if isinstance(told, str):
        return {"dripfleet.stage": stage, "dripfleet.outcome": told}
    said: dict[str, str | int] = {
        "dripfleet.stage": stage,
        "dripfleet.outcome": _WORDS.get(type(told), "unknown"),
    }
    if isinstance(told, NotSent | Accepted | Deferred | Refused | InDoubt):
        said["dripfleet.stage"] = told.stage.value
        if told.code is not None:
            said["smtp.code"] = told.code
        if isinstance(told, NotSent):
            said["dripfleet.kind"] = told.kind.value
    return said
