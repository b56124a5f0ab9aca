"""Every metric Retouch exports: its name, kind, labels and who exports it. Dashboards and rules are held to this table.

Two kinds of numbers, from two places:

- `fleet`: counts kept by the scripts in the same step as the change they count, so they survive every restart. Each API
  process exports the same ones: take `max`, never `sum`, over instances.
- `api`, `edits`, `webhooks`: times and bytes that one process saw, in its own registry, gone with it. Take `sum` over
  instances. A worker exports them on `--metrics-port`, the API beside the fleet's.

No label names a job, a batch or a custom id; tenants only with `RETOUCH_METRICS_TENANTS`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Kind = Literal["gauge", "counter", "histogram"]
Place = Literal["fleet", "api", "edits", "webhooks"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as it is exported; a counter's ends with `_total`.
        kind: of Prometheus.
        place: who exports it.
        help: what it counts, with its unit.
        labels: their names.
        buckets: upper bounds of a histogram, in its unit.
    """

    name: str
    kind: Kind
    place: Place
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names that queries use."""
        if self.kind != "histogram":
            return (self.name,)
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))


QUICK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
SLOW = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)

STORE_UP = Metric(
    "retouch_store_up", "gauge", "fleet", "1 where Redis answered this scrape, else 0 and no fleet metrics."
)
JOBS = Metric("retouch_jobs", "gauge", "fleet", "Jobs that are in a state.", ("model", "state"))
SUBMITTED = Metric("retouch_jobs_submitted_total", "counter", "fleet", "Jobs accepted.", ("model",))
ENDED = Metric(
    "retouch_jobs_ended_total", "counter", "fleet", "Ends of jobs, each one again after a retry.", ("model", "state")
)
STARTED = Metric("retouch_attempts_started_total", "counter", "fleet", "Attempts that the plan started.", ("model",))
ATTEMPTS = Metric(
    "retouch_attempts_total",
    "counter",
    "fleet",
    "Attempts by how they ended, as jobs' logs tell.",
    ("model", "outcome"),
)
REFUSED = Metric(
    "retouch_settlements_refused_total",
    "counter",
    "fleet",
    "Settlements that came too late and wrote nothing.",
    ("model",),
)
LEASES_LOST = Metric(
    "retouch_leases_lost_total",
    "counter",
    "fleet",
    "Leases that ended unrenewed: with a worker that held them, or with a message that reached nobody.",
    ("model", "holder"),
)
PAID = Metric("retouch_calls_paid_total", "counter", "fleet", "Calls that cost money, or may have.", ("model",))
PAID_AGAIN = Metric(
    "retouch_calls_paid_again_total",
    "counter",
    "fleet",
    "Calls paid for a job that had been paid for and whose user had not asked again.",
    ("model",),
)
COST = Metric("retouch_cost_usd_total", "counter", "fleet", "What calls cost, or may have, in US dollars.", ("model",))
REUSED = Metric("retouch_results_reused_total", "counter", "fleet", "Jobs given an equal edit's result.", ("model",))
WINDOW = Metric("retouch_model_window", "gauge", "fleet", "Jobs that may be in flight now.", ("model",))
CONCURRENCY = Metric("retouch_model_concurrency", "gauge", "fleet", "Most in flight, as configured.", ("model",))
PACE = Metric("retouch_model_pace_rpm", "gauge", "fleet", "Starts a minute that are allowed now; 0: any.", ("model",))
IN_FLIGHT = Metric("retouch_model_in_flight", "gauge", "fleet", "Attempts that occupy the window.", ("model",))
PARKED = Metric("retouch_model_parked", "gauge", "fleet", "1 while the model is parked.", ("model",))
PARKS = Metric("retouch_model_parks_total", "counter", "fleet", "Times the model was parked.", ("model",))
LANES = Metric("retouch_lanes", "gauge", "fleet", "Lanes that the plan may take from.", ("model",))
OLDEST = Metric(
    "retouch_oldest_queued_seconds",
    "gauge",
    "fleet",
    "Longest time that a lane's next job has been queued; held lanes do not count.",
    ("model", "priority"),
)
WORKERS = Metric("retouch_workers", "gauge", "fleet", "Live workers that serve a queue.", ("queue",))
SLOTS = Metric("retouch_worker_slots", "gauge", "fleet", "Threads of live workers for edits.")
DELIVERIES = Metric("retouch_deliveries", "gauge", "fleet", "Deliveries that wait or are being told.", ("state",))
DELIVERIES_ENDED = Metric(
    "retouch_deliveries_ended_total", "counter", "fleet", "Deliveries that succeeded or were exhausted.", ("state",)
)
TRIES = Metric(
    "retouch_delivery_tries_total", "counter", "fleet", "Tries of deliveries by how they ended.", ("outcome",)
)
BREAKERS = Metric("retouch_endpoint_breakers_open", "gauge", "fleet", "Receivers left alone after failures in a row.")
DISABLED = Metric(
    "retouch_endpoints_disabled_total", "counter", "fleet", "Endpoints disabled because they kept failing."
)
OUTBOX = Metric("retouch_outbox_events", "gauge", "fleet", "Events that have not been turned into deliveries.")
ROWS = Metric("retouch_ingest_rows_total", "counter", "fleet", "Rows of manifests.", ("outcome",))
MEMORY = Metric("retouch_redis_memory_used_bytes", "gauge", "fleet", "What Redis uses.")
MEMORY_LIMIT = Metric(
    "retouch_redis_memory_limit_bytes", "gauge", "fleet", "Its maxmemory, or the machine's memory where it has none."
)
TENANT_JOBS = Metric(
    "retouch_tenant_jobs", "gauge", "fleet", "A tenant's jobs; with RETOUCH_METRICS_TENANTS alone.", ("tenant", "state")
)
HTTP = Metric(
    "retouch_http_request_seconds",
    "histogram",
    "api",
    "From a request to the head of its answer; `code` is its class.",
    ("method", "route", "code"),
    QUICK,
)
QUEUE = Metric("retouch_queue_seconds", "histogram", "edits", "From queued to claimed.", ("model", "priority"), SLOW)
STEP = Metric("retouch_step_seconds", "histogram", "edits", "Steps of attempts.", ("model", "step"), QUICK)
ATTEMPT = Metric(
    "retouch_attempt_seconds", "histogram", "edits", "Attempts from claim to settlement.", ("model", "outcome"), QUICK
)
ANSWERS = Metric(
    "retouch_provider_answers_total", "counter", "edits", "What endpoints answered, by class.", ("model", "answer")
)
BYTES = Metric(
    "retouch_picture_bytes_total", "counter", "edits", "Bytes of pictures fetched and kept.", ("model", "direction")
)
HELD = Metric("retouch_worker_attempts_held", "gauge", "edits", "Attempts that this worker holds.")
EXCHANGE = Metric("retouch_delivery_seconds", "histogram", "webhooks", "Exchanges with receivers.", ("outcome",), QUICK)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order above."""

STEPS = ("fetch", "provider", "download", "verify", "put", "settle")
ANSWER_CLASSES = (
    "ok",
    "filtered",
    "rate_limited",
    "model_trouble",
    "refused",
    "server_error",
    "no_answer",
    "bad_result",
)
"""`no_answer`: none came, or not whole. `bad_result`: it was no picture, or not the one asked for."""
HOLDERS = ("worker", "nobody")
TRY_OUTCOMES = ("succeeded", "failed", "lost")
EXCHANGE_OUTCOMES = ("2xx", "3xx", "4xx", "5xx", "no_answer")


def at(place: Place) -> Iterable[Metric]:
    """The metrics of one place."""
    return (metric for metric in METRICS if metric.place == place)


def counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    """A process's counter."""
    return Counter(metric.name, metric.help, metric.labels, registry=registry)


def gauge(metric: Metric, registry: CollectorRegistry) -> Gauge:
    """A process's gauge."""
    return Gauge(metric.name, metric.help, metric.labels, registry=registry)


def histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    """A process's histogram."""
    return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
