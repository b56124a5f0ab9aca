"""The W3C trace context of a job, and OpenTelemetry spans if the extra `otel` is installed and configured.

The job's record stores the submitter's `traceparent`. Celery's message has only ids: any process may plan and publish a
job, and it may be published several times. The spans of edit, provider call and webhook continue this trace.

Spans are exported if one of OpenTelemetry's own variables is set (`OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_TRACES_EXPORTER`,
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Without them, OpenTelemetry is
not imported.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from importlib import import_module
from typing import Any, Protocol

import structlog

EXPORT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
INSTRUMENTORS = (
    ("opentelemetry.instrumentation.celery", "CeleryInstrumentor"),
    ("opentelemetry.instrumentation.httpx", "HTTPXClientInstrumentor"),
    ("opentelemetry.instrumentation.redis", "RedisInstrumentor"),
)

log = structlog.get_logger(__name__)


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id, 32 hexadecimal digits; None without a valid traceparent."""
    found = TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else None


def traceparent_of(event_data: str) -> str | None:
    """The traceparent of an event's job or batch; `event_data` as in the outbox. None if it is missing or invalid."""
    if "traceparent" not in event_data:
        return None
    record = json.loads(event_data)
    traceparent = record.get("traceparent") or json.loads(record.get("spec", "{}")).get("traceparent")
    return traceparent if trace_id_of(traceparent) else None


class Spans(Protocol):
    """Creates spans, or does nothing."""

    def span(self, name: str, *, parent: str | None = None, **attributes: str | int) -> AbstractContextManager[object]:
        """A span around a block: a child of `parent` (a traceparent), or else of the current span."""

    def lasted(self, name: str, began: datetime, ended: datetime, *, parent: str | None) -> None:
        """Record a span that has ended already."""

    def traceparent(self, received: str | None) -> str | None:
        """The current span's traceparent; without a current span, `received`."""

    def instrument_api(self, app: Any) -> None:
        """Create a span for each request of an app; it continues the request's `traceparent` header."""


def valid_traceparent(spans: Spans, received: str | None) -> str | None:
    """The traceparent that a job or a batch continues; None if there is none or it is invalid."""
    context = spans.traceparent(received)
    return context if trace_id_of(context) else None


class NoSpans:
    """No spans: a received traceparent is passed on unchanged."""

    _nothing: AbstractContextManager[object] = nullcontext()

    def span(
        self,
        name: str,  # noqa: ARG002
        *,
        parent: str | None = None,  # noqa: ARG002
        **attributes: str | int,  # noqa: ARG002
    ) -> AbstractContextManager[object]:
        """Do nothing."""
        return self._nothing

    def lasted(self, name: str, began: datetime, ended: datetime, *, parent: str | None) -> None:
        """Do nothing."""

    def traceparent(self, received: str | None) -> str | None:
        """The received traceparent."""
        return received

    def instrument_api(self, app: Any) -> None:
        """Do nothing."""


class OtelSpans:
    """Spans of OpenTelemetry.

    Args:
        tracer: creates them.
        propagator: reads and writes `traceparent`.
    """

    def __init__(self, tracer: Any, propagator: Any) -> None:
        self._tracer = tracer
        self._propagator = propagator

    @contextmanager
    def span(self, name: str, *, parent: str | None = None, **attributes: str | int) -> Iterator[object]:
        """A span around a block. An exception marks the span as failed; the traceback is not recorded."""
        with self._tracer.start_as_current_span(
            name, context=self._context(parent), attributes=attributes, record_exception=False
        ) as span:
            yield span

    def lasted(self, name: str, began: datetime, ended: datetime, *, parent: str | None) -> None:
        """Record a span that has ended already."""
        start, end = (int(moment.timestamp() * 1e9) for moment in (began, ended))
        self._tracer.start_span(name, context=self._context(parent), start_time=min(start, end)).end(end_time=end)

    def traceparent(self, received: str | None) -> str | None:
        """The current span's traceparent."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent", received)

    def instrument_api(self, app: Any) -> None:
        """Use OpenTelemetry's instrumentation of FastAPI."""
        import_module("opentelemetry.instrumentation.fastapi").FastAPIInstrumentor.instrument_app(
            app, excluded_urls="livez,readyz,metrics"
        )

    def _context(self, parent: str | None) -> Any:
        return self._propagator.extract({"traceparent": parent}) if parent else None


def open_spans(environment: Mapping[str, str] = os.environ) -> Spans:
    """Create spans if the environment configures an exporter and the extra is installed, else `NoSpans`.

    The service's name is `OTEL_SERVICE_NAME`, by default `retouch`.
    """
    if not any(environment.get(name) for name in EXPORT_VARIABLES) or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return NoSpans()
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NoSpans()
    try:
        trace = import_module("opentelemetry.trace")
        sdk = import_module("opentelemetry.sdk.trace")
        resources = import_module("opentelemetry.sdk.resources")
        processors = import_module("opentelemetry.sdk.trace.export")
        exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        context = import_module("opentelemetry.trace.propagation.tracecontext")
        instrumentors = [getattr(import_module(module), name) for module, name in INSTRUMENTORS]
    except ImportError as error:
        log.warning("tracing.not_installed", missing=error.name, install="pip install 'retouch[otel]'")
        return NoSpans()
    service = {"service.name": environment.get("OTEL_SERVICE_NAME") or "retouch"}
    provider = sdk.TracerProvider(resource=resources.Resource.create(service))
    provider.add_span_processor(processors.BatchSpanProcessor(exporter.OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    for instrumentor in instrumentors:
        instrumentor().instrument(tracer_provider=provider)
    return OtelSpans(provider.get_tracer("retouch"), context.TraceContextTextMapPropagator())
