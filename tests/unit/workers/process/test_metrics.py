"""The catalogue of metrics, and the metrics that a worker exports about its attempts."""

import re
import socket
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from infra.bench.monitoring import is_cheap
from infra.local.members import Members, UpOptions
from infra.local.ports import Ports
from jobs.foundation.errors import (
    BadResult,
    ConfigurationError,
    DownloadFailed,
    EditFailure,
    Filtered,
    Interrupted,
    ModelTrouble,
    OutcomeUnknown,
    RateLimited,
    RequestRefused,
    ResultGone,
    StorageFailed,
    Transient,
)
from jobs.foundation.metric_catalogue import ANSWER_CLASSES, METRICS, STEPS, Metric
from jobs.foundation.tracing import NoSpans, open_spans, trace_id_of, traceparent_of
from jobs.webhooks.retry_policy import Exchange
from tests.support.paths import ROOT
from workers.process.metrics import WorkerMetrics
from workers.process.timings import AttemptReport, answer_class

BOUNDED = {
    "model",
    "state",
    "outcome",
    "step",
    "priority",
    "answer",
    "direction",
    "queue",
    "holder",
    "method",
    "route",
    "code",
}
MONITORING = ROOT / "docs" / "monitoring.md"
CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_named_by_prometheus_s_rules_and_has_no_label_of_unbounded_size(metric: Metric) -> None:
    assert re.fullmatch(r"retouch_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    if metric.kind == "histogram":
        assert metric.name.endswith("_seconds")
    allowed = BOUNDED | {"tenant"} if metric.name == "retouch_tenant_jobs" else BOUNDED
    assert set(metric.labels) <= allowed


def test_no_two_metrics_have_a_name_in_common() -> None:
    series = [name for metric in METRICS for name in metric.series]
    assert len(series) == len(set(series))


def report(**changes: object) -> AttemptReport:
    values = {
        "model": "m",
        "priority": "high",
        "outcome": "succeeded",
        "written": True,
        "queued_s": 2.0,
        "took_s": 1.5,
        "steps": {"fetch": 0.1, "provider": 1.0, "put": 0.2},
        "answer": "ok",
        "fetched_bytes": 100,
        "kept_bytes": 200,
        **changes,
    }
    return AttemptReport(**values)  # type: ignore[arg-type]


def exported(metrics: WorkerMetrics) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    samples = (sample for family in families for sample in family.samples)
    return {(s.name, tuple(v for k, v in sorted(s.labels.items()) if k != "le")): s.value for s in samples}


def test_a_worker_exports_all_its_metrics_and_counts_its_attempts() -> None:
    metrics = WorkerMetrics(lambda: 3)
    metrics.attempt(report())
    metrics.attempt(report(outcome="retry", answer="server_error", steps={"fetch": 0.3}, kept_bytes=0))
    metrics.exchange(Exchange(40, status=204))
    metrics.exchange(Exchange(15_000, error="no whole answer within 15 s"))
    found = exported(metrics)
    assert found["retouch_queue_seconds_sum", ("m", "high")] == 4
    assert found["retouch_step_seconds_count", ("m", "fetch")] == 2
    assert found["retouch_step_seconds_sum", ("m", "provider")] == 1
    assert found["retouch_attempt_seconds_count", ("m", "retry")] == 1
    assert found["retouch_provider_answers_total", ("server_error", "m")] == 1
    assert found["retouch_picture_bytes_total", ("fetched", "m")] == 200
    assert found["retouch_picture_bytes_total", ("kept", "m")] == 200
    assert found["retouch_worker_attempts_held", ()] == 3
    assert found["retouch_delivery_seconds_sum", ("2xx",)] == 0.04
    assert found["retouch_delivery_seconds_count", ("no_answer",)] == 1
    named = {name for name, _ in found}
    for metric in METRICS:
        if metric.place in {"edits", "webhooks"}:
            assert named >= set(metric.series), metric.name


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    metrics = WorkerMetrics(lambda: 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="--metrics-port"):
            metrics.serve("127.0.0.1", taken.getsockname()[1])


def test_each_worker_of_the_local_stack_has_its_own_metrics_port(tmp_path: Path) -> None:
    members = Members(UpOptions(data_dir=tmp_path, port=Ports().choose("api"), workers=2), {})
    members.close()
    commands = [member.program.command for member in members.all if "worker" in member.program.command]
    assert len(commands) == 4
    assert all(command[command.index("--metrics-port") + 1] == "0" for command in commands)


@pytest.mark.parametrize(
    ("part", "scrapes", "cheap"),
    [
        (0.01, [[10.0, 49.0, 300.0], [20.0]], True),
        (0.05, [[10.0], [20.0]], False),
        (0.01, [[10.0], [40.0, 50.0, 60.0]], False),
        (0.01, [[50.0], [20.0]], False),
        (0.01, [[10.0], []], False),
    ],
)
def test_being_watched_is_judged_by_its_cpu_time_and_by_the_median_scrape(
    part: float, scrapes: list[list[float]], cheap: bool
) -> None:
    assert is_cheap(part, *scrapes) is cheap


@pytest.mark.parametrize(
    ("failure", "answered", "expected"),
    [
        (None, True, "ok"),
        (DownloadFailed("x"), True, "ok"),
        (StorageFailed("x"), True, "ok"),
        (ResultGone("x"), True, "ok"),
        (Interrupted("x"), True, "ok"),
        (BadResult("x"), False, "bad_result"),
        (BadResult("x"), True, "bad_result"),
        (Filtered("x"), False, "filtered"),
        (RateLimited("x"), False, "rate_limited"),
        (ModelTrouble("x"), False, "model_trouble"),
        (RequestRefused("x"), False, "refused"),
        (Transient("x", provider_status=503), False, "server_error"),
        (Transient("x"), False, "no_answer"),
        (OutcomeUnknown("x"), False, "no_answer"),
        (Interrupted("x"), False, None),
    ],
)
def test_each_failure_has_an_answer_class(failure: EditFailure | None, answered: bool, expected: str | None) -> None:
    assert answer_class(failure, called=True, answered=answered) == expected
    assert expected is None or expected in ANSWER_CLASSES
    assert answer_class(failure, called=False, answered=False) is None


def test_the_steps_have_the_names_that_dashboards_use() -> None:
    assert STEPS == ("fetch", "provider", "download", "verify", "put", "settle")


@pytest.mark.parametrize("given", [None, "", "nothing", CONTEXT.upper(), CONTEXT + "-more", "00-0-0-0"])
def test_an_invalid_trace_context_has_no_trace_id(given: str | None) -> None:
    assert trace_id_of(given) is None


def test_a_trace_context_is_read_from_the_outbox_fields_of_a_job() -> None:
    assert trace_id_of(CONTEXT) == "0af7651916cd43dd8448eb211c80319c"
    assert traceparent_of('{"spec": "{\\"traceparent\\": \\"' + CONTEXT + '\\"}"}') == CONTEXT
    assert traceparent_of('{"spec": "{\\"traceparent\\": \\"guess\\"}"}') is None
    assert traceparent_of('{"spec": "{\\"prompt\\": \\"traceparent\\"}"}') is None
    assert traceparent_of('{"code": "unauthorized"}') is None


def test_without_being_asked_for_spans_are_none_and_a_context_is_passed_on() -> None:
    for environment in (
        {},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"},
    ):
        spans = open_spans(environment)
        assert isinstance(spans, NoSpans)
        with spans.span("edit", parent=CONTEXT, job_id="job_1"):
            assert spans.traceparent(CONTEXT) == CONTEXT


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_monitoring_page_documents_every_metric(metric: Metric) -> None:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    line = f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"
    assert line in MONITORING.read_text().splitlines()


def test_the_monitoring_page_documents_no_unknown_metric() -> None:
    named = set(re.findall(r"^\| `(retouch_\w+)`", MONITORING.read_text(), re.MULTILINE))
    assert named == {metric.name for metric in METRICS}
