"""The metrics of a worker process: durations, answers and bytes.

The pool has threads, so one registry is enough. Several workers on one machine are several targets, each with its own
port. The store counts jobs, and the API exports these counts.
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
    """A worker's registry; its threads call `attempt` and `exchange`.

    Args:
        held: returns how many attempts the worker runs.
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
        """Count an attempt that has ended."""
        self._queue.labels(report.model, report.priority).observe(report.queued_s)
        for step, seconds in report.steps.items():
            self._step.labels(report.model, step).observe(seconds)
        self._attempt.labels(report.model, report.outcome).observe(report.took_s)
        if report.answer is not None:
            self._answers.labels(report.model, report.answer).inc()
        self._bytes.labels(report.model, "fetched").inc(report.fetched_bytes)
        self._bytes.labels(report.model, "kept").inc(report.kept_bytes)

    def exchange(self, exchange: Exchange) -> None:
        """Count an exchange with a webhook's receiver."""
        outcome = f"{exchange.status // 100}xx" if exchange.status else "no_answer"
        self._exchange.labels(outcome).observe(exchange.took_ms / 1000)

    def serve(self, address: str, port: int) -> Callable[[], None]:
        """Serve the metrics over HTTP.

        Args:
            address: to listen on.
            port: to listen on; 0 chooses a free one, which the log names.

        Returns:
            A function that stops the server.

        Raises:
            ConfigurationError: the address or port cannot be used.
        """
        try:
            server, _ = start_http_server(port, address, self.registry)
        except OSError as error:
            raise ConfigurationError(
                f"metrics cannot be served on {address}:{port} ({error.strerror}): choose another --metrics-port"
            ) from error
        log.info("metrics.serving", address=address, port=server.server_port)
        return server.shutdown
