"""`/metrics`: the fleet's metrics, read from Redis at each scrape, and the latencies of this process.

Each app has one registry. API processes share no metrics: Prometheus scrapes each as a separate target, and all of them
read the fleet's metrics from the same store.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.context import MetricsOf
from jobs.foundation import metric_catalogue as metrics
from jobs.foundation.job_states import State
from jobs.foundation.metric_catalogue import Metric
from jobs.operations.stats import FleetStats, ModelStats, Stats, TenantStats
from jobs.queueing.celery_app import QUEUES

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE = "(none)"

log = structlog.get_logger(__name__)
router = APIRouter(tags=["operations"])

Family = GaugeMetricFamily | CounterMetricFamily
Samples = Mapping[Metric, Iterable[tuple[tuple[str, ...], float]]]
"""For each metric: pairs of label values and sample."""


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def read_metrics(request: Request, registry: MetricsOf) -> Response:
    """No API key is required: restrict network access to Prometheus. The route also works while Redis is down."""
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), media_type=kind)


def make_registry(stats: Stats, *, by_tenant: bool) -> CollectorRegistry:
    """The metrics that one app exports; `by_tenant` adds the job counts of each tenant."""
    registry = CollectorRegistry()
    registry.register(FleetCollector(stats, by_tenant=by_tenant))
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


class FleetCollector(Collector):
    """Reads the fleet's metrics from Redis at each scrape."""

    def __init__(self, stats: Stats, *, by_tenant: bool) -> None:
        self._stats = stats
        self._by_tenant = by_tenant

    def describe(self) -> Iterable[Family]:
        """The metrics that it exports; this needs no access to Redis."""
        return [_family(metric) for metric in metrics.at("fleet")]

    def collect(self) -> Iterator[Family]:
        """Read the metrics; `retouch_store_up` is 0 if Redis does not answer."""
        up = _family(metrics.STORE_UP)
        samples: Samples = {}
        try:
            samples = samples_of(self._stats.fleet())
            if self._by_tenant:
                samples = {**samples, **_tenants(self._stats.tenants())}
            up.add_metric([], 1)
        except RedisError as error:
            log.warning("metrics.store_unreachable", error=str(error))
            up.add_metric([], 0)
        yield up
        for metric, values in samples.items():
            family = _family(metric)
            for labels, value in values:
                family.add_metric(list(labels), value)
            yield family


def _family(metric: Metric) -> Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)


def samples_of(fleet: FleetStats) -> Samples:
    """The fleet's counts as metrics. Every label value is always present, with 0 as its initial value."""
    deliveries = fleet.deliveries
    # A draining worker takes no new tasks, so it does not count for its queues.
    accepting = [worker for worker in fleet.workers if not worker.draining]
    serving = {queue: sum(queue in worker.queues for worker in accepting) for queue in QUEUES}
    return {
        **_models(fleet.models),
        metrics.WORKERS: _by(serving),
        metrics.SLOTS: [((), fleet.slots)],
        metrics.DELIVERIES: _by({"waiting": deliveries.waiting, "sending": deliveries.sending}),
        metrics.DELIVERIES_ENDED: _by(deliveries.ended),
        metrics.TRIES: _by(deliveries.tries),
        metrics.BREAKERS: [((), deliveries.breakers_open)],
        metrics.DISABLED: [((), deliveries.endpoints_disabled)],
        metrics.OUTBOX: [((), deliveries.outbox)],
        metrics.ROWS: _by(fleet.rows),
        metrics.MEMORY: [((), fleet.memory_used_bytes)],
        metrics.MEMORY_LIMIT: [((), fleet.memory_limit_bytes)],
    }


def _models(models: list[ModelStats]) -> Samples:
    fields = {
        metrics.JOBS: "jobs",
        metrics.SUBMITTED: "submitted",
        metrics.ENDED: "ended",
        metrics.STARTED: "started",
        metrics.ATTEMPTS: "attempts",
        metrics.REFUSED: "settlements_refused",
        metrics.LEASES_LOST: "leases_lost",
        metrics.PAID: "paid",
        metrics.PAID_AGAIN: "paid_again",
        metrics.COST: "cost_usd",
        metrics.REUSED: "reused",
        metrics.WINDOW: "window",
        metrics.CONCURRENCY: "concurrency",
        metrics.PACE: "pace_rpm",
        metrics.IN_FLIGHT: "in_flight",
        metrics.PARKED: "parked",
        metrics.PARKS: "parks",
        metrics.LANES: "lanes",
        metrics.OLDEST: "oldest_queued_s",
    }
    return {metric: list(_of_field(models, field)) for metric, field in fields.items()}


def _of_field(models: list[ModelStats], field: str) -> Iterator[tuple[tuple[str, ...], float]]:
    for model in models:
        value = getattr(model, field)
        if isinstance(value, Mapping):
            yield from (((model.name, str(label)), number) for label, number in value.items())
        else:
            yield (model.name,), float(value)


def _by(counts: Mapping[str, float]) -> list[tuple[tuple[str, ...], float]]:
    return [((label,), number) for label, number in counts.items()]


def _tenants(tenants: list[TenantStats]) -> Samples:
    values = [((tenant.name, str(state)), float(tenant.jobs[state])) for tenant in tenants for state in State]
    return {metrics.TENANT_JOBS: values}


class Latencies:
    """Measures the time until the response headers, by route. It is the outermost middleware."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._seconds = metrics.histogram(metrics.HTTP, registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        observed: tuple[str, float] | None = None

        async def answer(message: Message) -> None:
            nonlocal observed
            if message["type"] == "http.response.start":
                observed = f"{message['status'] // 100}xx", time.perf_counter() - started
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            if observed is not None:  # the router has set scope["route"] by now
                code, seconds = observed
                self._seconds.labels(_method(scope), route_of(scope), code).observe(seconds)


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in METHODS else "OTHER"


def route_of(scope: Scope) -> str:
    """The template of the matched route. Templates keep the number of label values small."""
    path = getattr(scope.get("route"), "path", None)
    return re.sub(r":\w+}", "}", path) if path else NO_ROUTE
