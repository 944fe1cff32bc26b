"""Whether one mail's life is drawn as one trace (the extra `trace`): `DRIPFLEET_TRACE`.

The setting is the share of mails that are drawn, judged by the trace id alone as TraceIdRatioBased
does, so that every process picks the same ones. Where spans go, and how they are batched, is said
by the standard variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_…), over http/protobuf.
"""

from __future__ import annotations

import structlog
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks import trace

log = structlog.get_logger()


class TraceSettings(BaseSettings):
    """Settings of the traces; `DRIPFLEET_TRACE`."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    trace: float = Field(
        0, ge=0, le=1, description="share of mails whose life is traced (extra `trace`); 0: none"
    )


def start(settings: TraceSettings, pool: str) -> bool:
    """Draw from here on, if it is asked for; once a process, after its fork. Whether it does."""
    if not settings.trace:
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        from workers.spans import OpenTelemetrySpans, provided
    except ImportError:
        log.warning("extra_missing", extra="trace", next="pip install dripfleet[trace]")
        return False
    trace.use(OpenTelemetrySpans(provided(OTLPSpanExporter(), pool=pool), settings.trace))
    log.info("tracing_started", share=settings.trace)
    return True


def stop() -> None:
    """Export what waits, for a few seconds at most, and draw no more."""
    trace.use(trace.Spans()).close()
