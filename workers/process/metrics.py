"""What a worker process exports: the times, answers and bytes it saw itself.

The pool is threads, so one registry holds all of it; several workers on one machine are several targets with a port
each. Counts of jobs are the store's: the API exports them.
"""

from collections.abc import Callable

import structlog
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from jobs.foundation import metric_catalogue as metrics
from jobs.foundation.errors import ConfigurationError
from jobs.webhooks.retry_policy import Exchange
from workers.process.timings import AttemptReport

log = structlog.get_logger(__name__)


class WorkerMetrics:
    """A worker's registry; `attempt` and `exchange` listen to its work from all its threads.

    Args:
        held: how many attempts the worker holds.
    """

    def __init__(self, held: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._queue = metrics.histogram(metrics.QUEUE, self.registry)
        self._step = metrics.histogram(metrics.STEP, self.registry)
        self._attempt = metrics.histogram(metrics.ATTEMPT, self.registry)
        self._answers = metrics.counter(metrics.ANSWERS, self.registry)
        self._bytes = metrics.counter(metrics.BYTES, self.registry)
        self._exchange = metrics.histogram(metrics.EXCHANGE, self.registry)
        metrics.gauge(metrics.HELD, self.registry).set_function(held)

    def attempt(self, report: AttemptReport) -> None:
        """An attempt has ended."""
        self._queue.labels(report.model, report.priority).observe(report.queued_s)
        for step, seconds in report.steps.items():
            self._step.labels(report.model, step).observe(seconds)
        self._attempt.labels(report.model, report.outcome).observe(report.took_s)
        if report.answer is not None:
            self._answers.labels(report.model, report.answer).inc()
        self._bytes.labels(report.model, "fetched").inc(report.fetched_bytes)
        self._bytes.labels(report.model, "kept").inc(report.kept_bytes)

    def exchange(self, exchange: Exchange) -> None:
        """A receiver was told, or was not."""
        outcome = f"{exchange.status // 100}xx" if exchange.status else "no_answer"
        self._exchange.labels(outcome).observe(exchange.took_ms / 1000)

    def serve(self, address: str, port: int) -> Callable[[], None]:
        """Serve them over HTTP; returns what ends that.

        Args:
            address: to listen on.
            port: 0 takes a free one; the log says which.

        Raises:
            ConfigurationError: nothing can listen there.
        """
        try:
            server, _ = start_http_server(port, address, self.registry)
        except OSError as error:
            raise ConfigurationError(
                f"metrics cannot be served on {address}:{port} ({error.strerror}): choose another --metrics-port"
            ) from error
        log.info("metrics.serving", address=address, port=server.server_port)
        return server.shutdown
