"""The effect of a hanging receiver on another receiver: deliveries must not become measurably slower.

2,000 job events are delivered to a receiver that fails its first 30 %, with and without a second endpoint that never
answers. The 95th percentile of the time from event to delivery must not grow by more than 10 %. Both cases alternate in
the same run, and their medians are compared.

    python -m infra.bench.webhooks [--events 2000] [--rounds 3] [--threads 16]
"""

import argparse
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from infra.bench.workbench import Bench, open_bench, row
from jobs.foundation.ids import new_id, new_job_id
from jobs.records.job_codec import to_json
from jobs.records.job_models import JobSpec
from jobs.webhooks.endpoint_models import EndpointFields

FAILURE_RATE = 0.3


def main() -> None:
    """Print the table; exit status 1 if the hanging receiver delays the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=16)
    options = parser.parse_args()
    p95s: dict[bool, list[float]] = {False: [], True: []}
    with open_bench(fast=True) as bench:
        bench.worker(concurrency=options.threads, queues="webhooks")
        print(f"{options.events} events, the first {FAILURE_RATE:.0%} of the requests fail, {options.threads} threads")  # noqa: T201
        row("", "p50 s", "p95 s", "all s", "requests", "worker CPU ms a request")
        for _ in range(options.rounds):
            for hanging in (False, True):
                p95s[hanging].append(_measure(bench, options.events, hanging=hanging))
    ratio = statistics.median(p95s[True]) / statistics.median(p95s[False])
    print(f"95th percentile with a hanging receiver, divided by that without: {ratio:.3f}")  # noqa: T201
    raise SystemExit(0 if ratio <= 1.1 else 1)


def _measure(bench: Bench, events: int, *, hanging: bool) -> float:
    """One run with a new tenant; returns the 95th percentile in seconds."""
    domain = bench.domain
    tenant = new_id("t").lower().replace("_", "-")
    domain.tenants.ensure(tenant)
    with _receiver(int(events * FAILURE_RATE)) as receiver, _hanging_receiver() as hanging_url:
        endpoints = [domain.endpoints.create(tenant, EndpointFields(url=receiver.url, events=["job.*"]))]
        if hanging:
            endpoints.append(domain.endpoints.create(tenant, EndpointFields(url=hanging_url, events=["job.*"])))
        cpu_before = bench.cpu()["workers"]
        spec = to_json(JobSpec(model="step-image-edit-2", prompt="p", image="s3://b/k", seed=1))
        record = f'{{"lane":"","state":"succeeded","spec":{_quoted(spec)}}}'
        began = time.time()
        pipe = domain.redis.pipeline(transaction=False)
        for _ in range(events):
            fields: dict[Any, Any] = {
                "type": "job.succeeded",
                "tenant": tenant,
                "subject": domain.keys.job(new_job_id()),
                "at": round(began * 1000),
                "data": record,
            }
            pipe.xadd(domain.keys.outbox, fields)
        pipe.execute()
        receiver.wait_for(events)
        cpu = bench.cpu()["workers"] - cpu_before
        times = sorted(at - began for at in receiver.arrived.values())
        for endpoint in endpoints:
            domain.endpoints.delete(tenant, endpoint.id)
    p50, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
    name = "with a hanging receiver" if hanging else "alone"
    row(
        name,
        f"{p50:.2f}",
        f"{p95:.2f}",
        f"{times[-1]:.2f}",
        receiver.requests,
        f"{1000 * cpu / receiver.requests:.1f}",
    )
    return p95


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Receiver:
    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.requests = 0
        self.arrived: dict[str, float] = {}
        self.url = ""
        self._changed = threading.Condition()

    def record(self, webhook_id: str) -> int:
        """Count a request and return the status to answer with."""
        with self._changed:
            self.requests += 1
            if self.requests <= self.failures:
                return 500
            self.arrived.setdefault(webhook_id, time.time())
            self._changed.notify_all()
            return 204

    def wait_for(self, events: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.arrived) >= events, timeout=600):
                raise SystemExit(f"only {len(self.arrived)} of {events} events arrived within 10 minutes")


@contextmanager
def _receiver(failures: int) -> Iterator[_Receiver]:
    receiver = _Receiver(failures)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(receiver.record(self.headers["webhook-id"]))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _hanging_receiver() -> Iterator[str]:
    """A URL that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


if __name__ == "__main__":
    main()
