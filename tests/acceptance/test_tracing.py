"""An OpenTelemetry collector receives one trace of the submission, the plan, the edit and the delivery."""

import gzip
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from infra.local.harness import Process, environment_of
from infra.local.ports import Ports
from jobs.batches.models import BatchRequest
from jobs.foundation.job_states import State
from tests.support.fleet import Fleet
from tests.support.receiver import receiving
from tests.support.waiting import eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SUBMITTER = "00f067aa0ba902b7"

collected = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra `otel` is not installed"
)


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP collector: its address, and the spans that it has received."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            request = collected.ExportTraceServiceRequest.FromString(body)
            spans.extend(
                span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
            )
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_submit_plan_edit_and_delivery_are_spans_of_the_submitter_s_trace(
    make_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = make_fleet()
    key = fleet.domain.api_keys.create("acme")
    held = BytesIO()
    Image.new("RGB", (96, 64), "seagreen").save(held, "PNG")
    with collector() as (address, spans), receiving() as receiver:
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        fleet.worker(**otel)
        fleet.worker(queues="webhooks", **otel)
        port = Ports().choose("api")
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "retouch", "api", "--port", str(port)]
        api = Process(command, tmp_path / "api.log", environment_of(fleet.domain.settings, **otel))
        try:
            api.wait_until(lambda: _lives(url))
            answer = httpx.post(
                f"{url}/v1/jobs",
                headers={"authorization": f"Bearer {key}", "traceparent": f"00-{TRACE}-{SUBMITTER}-01"},
                data={"prompt": "traced to its end", "webhook_url": receiver.url},
                files={"image": ("in.png", held.getvalue(), "image/png")},
                timeout=60,
            ).raise_for_status()
            assert fleet.ended(answer.json()["id"]).state is State.SUCCEEDED
            (got,) = receiver.wait_for(lambda requests: len(requests) == 1)
            assert got.headers["traceparent"].split("-")[1] == TRACE

            def ours() -> dict[str, Any]:
                return {span.name: span for span in spans if span.trace_id.hex() == TRACE}

            wanted = {"POST /v1/jobs", "plan", "edit", "fetch", "provider", "download", "put", "settle", "deliver"}
            eventually(lambda: wanted <= set(ours()), what="all spans are received")
            found = ours()
            submit = found["POST /v1/jobs"]
            assert submit.parent_span_id.hex() == SUBMITTER
            for name in ("plan", "edit", "deliver"):
                assert found[name].parent_span_id == submit.span_id, name
            assert found["provider"].parent_span_id == found["edit"].span_id
            (call,) = httpx.get(
                f"{fleet.origin}/_sim/calls", params={"prompt": "traced to its end"}, timeout=60
            ).json()["data"]
            assert call["headers"]["traceparent"].split("-")[1] == TRACE
        finally:
            api.close(grace_s=25)


def test_the_edits_of_a_batch_are_spans_of_its_submitter_s_trace(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    held = BytesIO()
    Image.new("RGB", (96, 64), "seagreen").save(held, "PNG")
    image = fleet.put_picture(held.getvalue(), "in/small.png")
    request = BatchRequest(items=[{"prompt": "traced in a batch", "image": image}])
    with collector() as (address, spans):
        fleet.worker(queues="edits,ingest", OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_BSP_SCHEDULE_DELAY="200")
        fleet.domain.batch_submission.submit(request, tenant="acme", traceparent=f"00-{TRACE}-{SUBMITTER}-01")

        def ours() -> dict[str, Any]:
            return {span.name: span for span in spans if span.trace_id.hex() == TRACE}

        eventually(lambda: {"plan", "edit", "provider", "settle"} <= set(ours()), what="all spans are received")
        assert ours()["edit"].parent_span_id.hex() == SUBMITTER


def _lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", timeout=60).is_success
    except httpx.TransportError:
        return False
