"""All metrics that Retouch exports: name, kind, labels and exporter. Tests compare dashboards and rules with them.

Metrics have two sources:

- `fleet`: counts in Redis. A script changes a count in the same step as the counted record, so counts survive
  restarts. Each API process exports the same numbers: take `max` over instances, never `sum`.
- `api`, `edits`, `webhooks`: times and bytes in the registry of one process, which end with it. Take `sum` over
  instances. A worker exports them on `--metrics-port`; the API exports them together with those of the fleet.

Labels never contain a job, a batch or a custom id. They contain tenants only with `RETOUCH_METRICS_TENANTS`.
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
        name: the exported name; that of a counter ends with `_total`.
        kind: Prometheus' type.
        place: the exporter.
        help: the description, with the unit.
        labels: the names of its labels.
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

STORE_UP = Metric("retouch_store_up", "gauge", "fleet", "1 if Redis answered this scrape, else 0 and no fleet metrics.")
JOBS = Metric("retouch_jobs", "gauge", "fleet", "Jobs by state.", ("model", "state"))
SUBMITTED = Metric("retouch_jobs_submitted_total", "counter", "fleet", "Jobs accepted.", ("model",))
ENDED = Metric(
    "retouch_jobs_ended_total", "counter", "fleet", "Jobs that ended; a retried job counts again.", ("model", "state")
)
STARTED = Metric("retouch_attempts_started_total", "counter", "fleet", "Attempts that the plan started.", ("model",))
ATTEMPTS = Metric(
    "retouch_attempts_total",
    "counter",
    "fleet",
    "Attempts that ended, by outcome.",
    ("model", "outcome"),
)
REFUSED = Metric(
    "retouch_settlements_refused_total",
    "counter",
    "fleet",
    "Settlements that were refused because the attempt no longer had the lease.",
    ("model",),
)
LEASES_LOST = Metric(
    "retouch_leases_lost_total",
    "counter",
    "fleet",
    "Leases that expired: a worker had claimed the job, or no worker received the message.",
    ("model", "holder"),
)
PAID = Metric(
    "retouch_calls_paid_total", "counter", "fleet", "Provider calls that cost money or may have cost money.", ("model",)
)
PAID_AGAIN = Metric(
    "retouch_calls_paid_again_total",
    "counter",
    "fleet",
    "Further paid calls for a job that was paid for already, without a retry by the user.",
    ("model",),
)
COST = Metric(
    "retouch_cost_usd_total", "counter", "fleet", "Certain and possible cost of calls, in US dollars.", ("model",)
)
REUSED = Metric(
    "retouch_results_reused_total", "counter", "fleet", "Jobs that reuse the result of an equal edit.", ("model",)
)
WINDOW = Metric("retouch_model_window", "gauge", "fleet", "Maximum of jobs in flight now.", ("model",))
CONCURRENCY = Metric("retouch_model_concurrency", "gauge", "fleet", "Configured maximum of jobs in flight.", ("model",))
PACE = Metric("retouch_model_pace_rpm", "gauge", "fleet", "Maximum of starts a minute now; 0: no limit.", ("model",))
IN_FLIGHT = Metric("retouch_model_in_flight", "gauge", "fleet", "Attempts in flight.", ("model",))
PARKED = Metric("retouch_model_parked", "gauge", "fleet", "1 while the model is parked.", ("model",))
PARKS = Metric("retouch_model_parks_total", "counter", "fleet", "Times the model was parked.", ("model",))
LANES = Metric("retouch_lanes", "gauge", "fleet", "Lanes with queued jobs that the plan may start.", ("model",))
OLDEST = Metric(
    "retouch_oldest_queued_seconds",
    "gauge",
    "fleet",
    "Age of the oldest job at the front of a lane; held lanes do not count.",
    ("model", "priority"),
)
WORKERS = Metric("retouch_workers", "gauge", "fleet", "Live workers that serve a queue.", ("queue",))
SLOTS = Metric("retouch_worker_slots", "gauge", "fleet", "Threads of live workers for edits.")
DELIVERIES = Metric("retouch_deliveries", "gauge", "fleet", "Deliveries that wait or are being sent.", ("state",))
DELIVERIES_ENDED = Metric(
    "retouch_deliveries_ended_total", "counter", "fleet", "Deliveries that succeeded or were exhausted.", ("state",)
)
TRIES = Metric("retouch_delivery_tries_total", "counter", "fleet", "Tries of deliveries, by outcome.", ("outcome",))
BREAKERS = Metric(
    "retouch_endpoint_breakers_open",
    "gauge",
    "fleet",
    "Receivers that get no deliveries for a time after consecutive failures.",
)
DISABLED = Metric("retouch_endpoints_disabled_total", "counter", "fleet", "Endpoints disabled after repeated failures.")
OUTBOX = Metric("retouch_outbox_events", "gauge", "fleet", "Events in the outbox whose deliveries are not yet created.")
ROWS = Metric("retouch_ingest_rows_total", "counter", "fleet", "Rows of manifests.", ("outcome",))
MEMORY = Metric("retouch_redis_memory_used_bytes", "gauge", "fleet", "Memory that Redis uses.")
MEMORY_LIMIT = Metric(
    "retouch_redis_memory_limit_bytes",
    "gauge",
    "fleet",
    "The maxmemory of Redis, or the machine's memory if it is not set.",
)
TENANT_JOBS = Metric(
    "retouch_tenant_jobs", "gauge", "fleet", "A tenant's jobs; only with RETOUCH_METRICS_TENANTS.", ("tenant", "state")
)
HTTP = Metric(
    "retouch_http_request_seconds",
    "histogram",
    "api",
    "Time from a request to the head of its response; `code` is the class of its status.",
    ("method", "route", "code"),
    QUICK,
)
QUEUE = Metric(
    "retouch_queue_seconds", "histogram", "edits", "Time from queued to claimed.", ("model", "priority"), SLOW
)
STEP = Metric(
    "retouch_step_seconds", "histogram", "edits", "Duration of the steps of attempts.", ("model", "step"), QUICK
)
ATTEMPT = Metric(
    "retouch_attempt_seconds",
    "histogram",
    "edits",
    "Duration of attempts from claim to settlement.",
    ("model", "outcome"),
    QUICK,
)
ANSWERS = Metric(
    "retouch_provider_answers_total", "counter", "edits", "Responses of providers, by class.", ("model", "answer")
)
BYTES = Metric(
    "retouch_picture_bytes_total", "counter", "edits", "Bytes of pictures fetched and stored.", ("model", "direction")
)
HELD = Metric("retouch_worker_attempts_held", "gauge", "edits", "Attempts that run in this worker.")
EXCHANGE = Metric(
    "retouch_delivery_seconds", "histogram", "webhooks", "Duration of exchanges with receivers.", ("outcome",), QUICK
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All metrics, in the order above."""

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
"""`no_answer`: no complete response came. `bad_result`: it was not a picture, or had a wrong size."""
HOLDERS = ("worker", "nobody")
TRY_OUTCOMES = ("succeeded", "failed", "lost")
EXCHANGE_OUTCOMES = ("2xx", "3xx", "4xx", "5xx", "no_answer")


def at(place: Place) -> Iterable[Metric]:
    """The metrics of one exporter."""
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
