"""W3C trace context carried through a job, and OpenTelemetry spans where the extra `otel` is installed and asked for.

A submitter's `traceparent` is kept with the job, not in Celery's message: a job is planned and published by whoever
comes by, often again, and its message holds ids alone. Edit, provider call and webhook all go on from it.

Spans are made where one of OpenTelemetry's own variables says where to send them (`OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_TRACES_EXPORTER`,
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Nothing of it is imported otherwise.
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

ASKED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
INSTRUMENTED = (
    ("opentelemetry.instrumentation.celery", "CeleryInstrumentor"),
    ("opentelemetry.instrumentation.httpx", "HTTPXClientInstrumentor"),
    ("opentelemetry.instrumentation.redis", "RedisInstrumentor"),
)

log = structlog.get_logger(__name__)


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace's id, 32 hexadecimal digits; None where there is none."""
    found = TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else None


def traceparent_of(event_data: str) -> str | None:
    """The trace context of the job or batch that an event tells of; `event_data` as the outbox holds it."""
    if "traceparent" not in event_data:
        return None
    record = json.loads(event_data)
    given = record.get("traceparent") or json.loads(record.get("spec", "{}")).get("traceparent")
    return given if trace_id_of(given) else None


class Spans(Protocol):
    """Makes spans, or nothing."""

    def span(self, name: str, *, parent: str | None = None, **attributes: str | int) -> AbstractContextManager[object]:
        """A span around a block; a child of `parent` (a traceparent), else of the one that is open."""

    def lasted(self, name: str, began: datetime, ended: datetime, *, parent: str | None) -> None:
        """A span that is over already."""

    def traceparent(self, given: str | None) -> str | None:
        """What is passed on: the open span's context; `given` where there is none."""

    def instrument_api(self, app: Any) -> None:
        """Spans around an app's requests, which go on from their `traceparent` header."""


def valid_traceparent(spans: Spans, given: str | None) -> str | None:
    """The trace context that a job or a batch continues; None where there is none, or an invalid one."""
    context = spans.traceparent(given)
    return context if trace_id_of(context) else None


class NoSpans:
    """No spans: a given trace context is passed on as it is."""

    _nothing: AbstractContextManager[object] = nullcontext()

    def span(
        self,
        name: str,  # noqa: ARG002
        *,
        parent: str | None = None,  # noqa: ARG002
        **attributes: str | int,  # noqa: ARG002
    ) -> AbstractContextManager[object]:
        """Nothing."""
        return self._nothing

    def lasted(self, name: str, began: datetime, ended: datetime, *, parent: str | None) -> None:
        """Nothing."""

    def traceparent(self, given: str | None) -> str | None:
        """What was given."""
        return given

    def instrument_api(self, app: Any) -> None:
        """Nothing."""


class OtelSpans:
    """Spans of OpenTelemetry.

    Args:
        tracer: makes them.
        propagator: reads and writes `traceparent`.
    """

    def __init__(self, tracer: Any, propagator: Any) -> None:
        self._tracer = tracer
        self._propagator = propagator

    @contextmanager
    def span(self, name: str, *, parent: str | None = None, **attributes: str | int) -> Iterator[object]:
        """A span around a block. An exception marks it as failed, without the traceback."""
        with self._tracer.start_as_current_span(
            name, context=self._context(parent), attributes=attributes, record_exception=False
        ) as made:
            yield made

    def lasted(self, name: str, began: datetime, ended: datetime, *, parent: str | None) -> None:
        """A span that is over already."""
        start, end = (int(moment.timestamp() * 1e9) for moment in (began, ended))
        self._tracer.start_span(name, context=self._context(parent), start_time=min(start, end)).end(end_time=end)

    def traceparent(self, given: str | None) -> str | None:
        """The open span's context."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent", given)

    def instrument_api(self, app: Any) -> None:
        """Through OpenTelemetry's own instrumentation of FastAPI."""
        import_module("opentelemetry.instrumentation.fastapi").FastAPIInstrumentor.instrument_app(
            app, excluded_urls="livez,readyz,metrics"
        )

    def _context(self, parent: str | None) -> Any:
        return self._propagator.extract({"traceparent": parent}) if parent else None


def open_spans(environment: Mapping[str, str] = os.environ) -> Spans:
    """Spans where the environment asks for them, and none where it does not or the extra is not installed.

    The service is called `retouch` unless `OTEL_SERVICE_NAME` says otherwise.
    """
    if not any(environment.get(name) for name in ASKED) or environment.get("OTEL_TRACES_EXPORTER") == "none":
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
        instrumentors = [getattr(import_module(module), name) for module, name in INSTRUMENTED]
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
