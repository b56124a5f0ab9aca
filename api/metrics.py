"""`/metrics`: the fleet's counts, read from the store at each scrape, and this process's own latencies.

One registry an app. There is nothing to share between processes: each is a target of its own, and what they all tell
comes from the store.
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
from jobs.queueing.broker import QUEUES

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE = "(none)"

log = structlog.get_logger(__name__)
router = APIRouter(tags=["operations"])

Family = GaugeMetricFamily | CounterMetricFamily
Samples = Mapping[Metric, Iterable[tuple[tuple[str, ...], float]]]
"""For each metric the values of its labels, and the number."""


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def read_metrics(request: Request, registry: MetricsOf) -> Response:
    """No key is asked for: let only what scrapes it reach it. It is answered also where Redis is not."""
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
    """Reads the fleet's counts at each scrape."""

    def __init__(self, stats: Stats, *, by_tenant: bool) -> None:
        self._stats = stats
        self._by_tenant = by_tenant

    def describe(self) -> Iterable[Family]:
        """What it will export: known without asking the store."""
        return [_family(metric) for metric in metrics.at("fleet")]

    def collect(self) -> Iterator[Family]:
        """Ask the store."""
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
    """The fleet's counts as metrics. Every value of a label is there from the start, at 0 where nothing was counted."""
    told = fleet.deliveries
    # One that drains takes nothing more: the last one is gone for its queue before it has ended.
    taking = [worker for worker in fleet.workers if not worker.draining]
    serving = {queue: sum(queue in worker.queues for worker in taking) for queue in QUEUES}
    return {
        **_models(fleet.models),
        metrics.WORKERS: _by(serving),
        metrics.SLOTS: [((), fleet.slots)],
        metrics.DELIVERIES: _by({"waiting": told.waiting, "sending": told.sending}),
        metrics.DELIVERIES_ENDED: _by(told.ended),
        metrics.TRIES: _by(told.tries),
        metrics.BREAKERS: [((), told.breakers_open)],
        metrics.DISABLED: [((), told.endpoints_disabled)],
        metrics.OUTBOX: [((), told.outbox)],
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
    """Times every request to the head of its answer, by route; put around everything else."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._seconds = metrics.histogram(metrics.HTTP, registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        answered: tuple[str, float] | None = None

        async def answer(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = f"{message['status'] // 100}xx", time.perf_counter() - began
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            if answered is not None:  # and what wrote the route down has ended
                code, seconds = answered
                self._seconds.labels(_method(scope), route_of(scope), code).observe(seconds)


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in METHODS else "OTHER"


def route_of(scope: Scope) -> str:
    """The template of the route that answered, so that labels stay few whatever is asked for."""
    path = getattr(scope.get("route"), "path", None)
    return re.sub(r":\w+}", "}", path) if path else NO_ROUTE
