"""Log lines name their job and trace, and contain no secret and no prompt."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from infra.local.harness import KEY, api_process
from infra.local.ports import Ports
from jobs.foundation.ids import batch_job_id
from jobs.foundation.job_states import State
from tests.support.fleet import Fleet
from tests.support.flower import scraped, total
from tests.support.receiver import receiving
from tests.support.waiting import eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CONTEXT = f"00-{TRACE}-00f067aa0ba902b7-01"
PROMPT = "a-confidential-prompt"


def picture() -> bytes:
    held = BytesIO()
    Image.new("RGB", (96, 64), "seagreen").save(held, "PNG")
    return held.getvalue()


def lines_of(log: Path) -> list[dict[str, Any]]:
    """The JSON lines of a log, without the message that Celery prints to stdout for a signal."""
    text = log.read_text().replace("\nworker: Warm shutdown (MainProcess)\n", "")
    return [json.loads(line) for line in text.splitlines()]


def run(fleet: Fleet, directory: Path, level: str) -> tuple[list[str], Path, list[Path], list[str]]:
    """Run jobs of all kinds, each with a webhook.

    Returns:
        the job ids, the log of the API, the logs of the workers, and all secrets.
    """
    domain = fleet.domain
    key = domain.api_keys.create("acme")
    settings = domain.settings.model_copy(update={"log_level": level})
    port = Ports().choose("api")
    workers = [fleet.worker(RETOUCH_LOG_LEVEL=level, RETOUCH_METRICS_PORT="0")]
    workers += [fleet.worker(RETOUCH_LOG_LEVEL=level, queues="webhooks")]
    api = api_process(settings, directory / "api.log", port)
    url = f"http://127.0.0.1:{port}"
    headers = {"authorization": f"Bearer {key}", "traceparent": CONTEXT}
    directives = ("", "[sim:fail=503*1]", "[sim:fail=400]", "[sim:censored]", "[sim:badimage*1]")
    with receiving() as receiver:
        api.wait_until(lambda: _lives(url))
        ids = []
        for directive in directives:
            answer = httpx.post(
                f"{url}/v1/jobs",
                headers=headers,
                data={"prompt": f"{directive} {PROMPT} {level}", "webhook_url": receiver.url},
                files={"image": ("in.png", picture(), "image/png")},
                timeout=60,
            )
            ids.append(answer.raise_for_status().json()["id"])
        states = [fleet.ended(job_id).state for job_id in ids]
        assert states == [State.SUCCEEDED, State.SUCCEEDED, State.FAILED, State.FILTERED, State.SUCCEEDED]
        requests = receiver.wait_for(lambda got: len(got) >= len(ids))
        assert {got.headers.get("traceparent") for got in requests} == {CONTEXT}
    secrets = [
        key,
        KEY,
        domain.tenants.webhook_secret("acme"),
        str(domain.redis.connection_pool.connection_kwargs["password"]),
    ]
    metrics = next(line for line in lines_of(workers[0].log) if line["event"] == "metrics.serving")

    def counted() -> Any:
        # An attempt is counted after its settlement has made the job final.
        scrape = scraped(f"http://127.0.0.1:{metrics['port']}/metrics")
        return total(scrape, "retouch_step_seconds_count", step="put") == 3 and scrape

    samples = eventually(counted, what="the metrics count three puts")
    assert total(samples, "retouch_provider_answers_total", answer="server_error") == 1
    assert total(samples, "retouch_provider_answers_total", answer="bad_result") == 1
    assert total(samples, "retouch_picture_bytes_total", direction="kept") > 0
    for worker in workers:
        worker.terminate()
    eventually(lambda: all(worker.process.poll() is not None for worker in workers), what="the workers have ended")
    api.close(grace_s=25)
    return ids, api.log, [worker.log for worker in workers], secrets


def _lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", timeout=60).is_success
    except httpx.TransportError:
        return False


def _state(batch: str, headers: dict[str, str]) -> str:
    return str(httpx.get(batch, headers=headers, timeout=60).raise_for_status().json()["state"])


def test_log_lines_name_the_job_and_the_trace_reaches_provider_and_receiver(
    make_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = make_fleet()
    ids, api_log, logs, secrets = run(fleet, tmp_path, "INFO")
    calls = httpx.get(f"{fleet.origin}/_sim/calls", params={"prompt": PROMPT}, timeout=60).json()["data"]
    assert {call["headers"].get("traceparent") for call in calls} == {CONTEXT}
    settled = [line for line in lines_of(logs[0]) if line["event"] == "edit.settled"]
    assert {line["job_id"] for line in settled} == set(ids)
    for line in settled:
        assert (line["tenant"], line["trace_id"], line["model"]) == ("acme", TRACE, "step-image-edit-2")
        assert line["attempt"] >= 1
        assert line["steps"]["provider"] > 0
    deliveries = [line for line in lines_of(logs[1]) if line["event"] == "deliver.tried"]
    assert len(deliveries) == len(ids)
    assert {(line["tenant"], line["trace_id"]) for line in deliveries} == {("acme", TRACE)}
    submits = [line for line in lines_of(api_log) if line["event"] == "request" and line["method"] == "POST"]
    assert [line["job_id"] for line in submits] == ids
    assert {line["trace_id"] for line in submits} == {TRACE}
    text = "".join(log.read_text() for log in (api_log, *logs))
    assert PROMPT not in text
    for secret in (*secrets, "IHDR", "iVBORw0KGgo"):
        assert secret not in text


def test_a_batch_keeps_its_trace_and_its_log_lines_name_the_tenant(
    make_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = make_fleet()
    domain = fleet.domain
    key = domain.api_keys.create("acme")
    worker = fleet.worker(queues="edits,webhooks,ingest")
    image = fleet.put_picture(picture(), "in/small.png")
    port = Ports().choose("api")
    api = api_process(domain.settings, tmp_path / "api.log", port)
    url = f"http://127.0.0.1:{port}/v1/batches"
    headers = {"authorization": f"Bearer {key}"}
    items = [{"prompt": "a traced row", "image": image} for _ in range(2)]
    with receiving() as receiver:
        api.wait_until(lambda: _lives(f"http://127.0.0.1:{port}"))
        body = {"items": items, "trial": 1, "webhook_url": receiver.url, "webhook_events": ["job.*", "batch.*"]}
        created = (
            httpx.post(url, headers={**headers, "traceparent": CONTEXT}, json=body, timeout=60)
            .raise_for_status()
            .json()
        )
        batch = f"{url}/{created['id']}"
        eventually(lambda: _state(batch, headers) == "awaiting_approval", what="the trial ends")
        approved = (
            httpx.post(f"{batch}/approve", headers=headers, json={"prompt": "an approved row"}, timeout=60)
            .raise_for_status()
            .json()
        )
        assert set(approved["defaults"]) == {"model"}
        assert CONTEXT not in json.dumps(approved)
        eventually(lambda: _state(batch, headers) == "completed", what="the batch ends")
        requests = receiver.wait_for(lambda got: len(got) >= 4)
        assert {got.headers.get("traceparent") for got in requests} == {CONTEXT}
    for prompt in ("a traced row", "an approved row"):
        (call,) = httpx.get(f"{fleet.origin}/_sim/calls", params={"prompt": prompt}, timeout=60).json()["data"]
        assert call["headers"].get("traceparent") == CONTEXT
    for row in (1, 2):
        assert TRACE not in str(domain.redis.hgetall(domain.keys.job(batch_job_id(created["id"], row))))
    eventually(
        lambda: httpx.get(batch, headers=headers, timeout=60).json()["results"], what="the results are in the bucket"
    )
    worker.terminate()
    eventually(lambda: worker.process.poll() is not None, what="the worker has ended")
    api.close(grace_s=25)
    lines = lines_of(worker.log)
    settled = [line for line in lines if line["event"] == "edit.settled"]
    assert {(line["batch_id"], line["trace_id"]) for line in settled} == {(created["id"], TRACE)}
    background = [line for line in lines if line["event"].startswith("background_task.")]
    assert {(line["kind"], line["batch_id"], line["tenant"]) for line in background} == {
        ("ingest", created["id"], "acme"),
        ("results", created["id"], "acme"),
    }
    (submit,) = [line for line in lines_of(api.log) if line.get("path") == "/v1/batches"]
    assert (submit["tenant"], submit["batch_id"], submit["trace_id"]) == ("acme", created["id"], TRACE)


def test_logs_of_level_debug_contain_no_secret(make_fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    fleet = make_fleet()
    _, api_log, logs, secrets = run(fleet, tmp_path, "DEBUG")
    text = "".join(log.read_text() for log in (api_log, *logs))
    assert '"level": "debug"' in text
    for secret in (*secrets, "whsec_", "Bearer "):
        assert secret not in text, secret[:8]
