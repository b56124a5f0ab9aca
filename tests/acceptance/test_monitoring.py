"""Flower, the metrics, the statistics and the records show the same number of jobs and attempts."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image
from pydantic import SecretStr

from infra.local.embedded_servers import Valkey
from infra.local.harness import MODEL, environment_of
from jobs.batches.models import BatchRequest
from jobs.foundation.ids import new_job_id
from jobs.foundation.job_states import FINAL, State
from jobs.foundation.settings import Settings
from jobs.plan.records import Dispatch, Draft
from jobs.records.job_models import Input, JobSpec
from jobs.tenants.quotas import Quotas
from jobs.webhooks.delivery_reader import DeliveryFilter
from jobs.webhooks.endpoint_models import EndpointFields
from tests.support.api_server import served
from tests.support.fleet import Fleet
from tests.support.flower import LOGIN, Flower, scraped, total
from tests.support.receiver import Answer, receiving
from tests.support.waiting import eventually

KINDS = {
    "succeeded": (300, ""),
    "filtered": (70, "[sim:censored]"),
    "failed": (60, "[sim:fail=400]"),
    "retried": (70, "[sim:fail=503*1]"),
}
EXPECTED = {"succeeded": 370, "filtered": 70, "failed": 60}


def small_picture() -> bytes:
    held = BytesIO()
    Image.new("RGB", (96, 64), "seagreen").save(held, "PNG")
    return held.getvalue()


def submit_mixed(fleet: Fleet) -> list[str]:
    """500 jobs of all kinds, mixed."""
    image = fleet.put_picture(small_picture(), "in/small.png")
    prompts = [f"{directive} {kind} {n}" for kind, (count, directive) in KINDS.items() for n in range(count)]
    prompts.sort(key=lambda prompt: prompt[::-1])
    ids = []
    for start in range(0, len(prompts), 100):
        specs = [JobSpec(model=MODEL, prompt=p, image=image, seed=1) for p in prompts[start : start + 100]]
        drafts = [Draft(new_job_id(), spec, Input(image=image)) for spec in specs]
        ids += fleet.domain.planner.submit(drafts, tenant="acme").job_ids
    fleet.domain.edit_loop.dispatch()
    return ids


def in_the_store(fleet: Fleet, ids: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Jobs by state and attempts by outcome, from the records."""
    jobs = fleet.domain.job_reader.get_many("acme", ids)
    return Counter(job.state for job in jobs), Counter(a.outcome for job in jobs for a in job.attempts)


def in_flower(tasks: dict[str, dict[str, Any]]) -> Counter[str]:
    def state_of(task: dict[str, Any]) -> str:
        if task["state"] != "FAILURE":
            return "succeeded" if task["state"] == "SUCCESS" else str(task["state"])
        return "filtered" if task["exception"].startswith("Filtered(") else "failed"

    return Counter(state_of(task) for task in tasks.values() if task["name"] == "edit")


def test_flower_metrics_stats_and_store_agree_on_every_count(make_fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    fleet = make_fleet()
    domain = fleet.domain
    key = domain.api_keys.create("acme", admin=True)
    with Flower(domain.settings, tmp_path) as flower, served(domain) as api:
        worker = fleet.worker(concurrency=16)
        eventually(lambda: flower.sees(worker.name), what="Flower sees the worker")
        ids = submit_mixed(fleet)
        eventually(
            lambda: sum(domain.stats.tenant("acme").jobs[state] for state in FINAL) == len(ids), what="all jobs end"
        )
        states, outcomes = in_the_store(fleet, ids)
        assert states == EXPECTED
        assert outcomes["retry"] >= 70
        assert outcomes["succeeded"] == 370
        model = check_stats(fleet, f"{api}/v1/stats", key, ids, outcomes)
        check_metrics(f"{api}/metrics", model, outcomes)
        eventually(lambda: in_flower(flower.tasks()) == EXPECTED, what="Flower has received all events")
        retried = check_flower(fleet, flower, ids, outcomes)
        task = flower.tasks()[retried]
        flower.stop()
        with Flower(domain.settings, tmp_path) as restarted:
            assert in_flower(restarted.tasks()) == EXPECTED
            assert restarted.tasks()[retried]["args"] == task["args"]
            eventually(lambda: restarted.sees(worker.name), what="Flower sees the worker again")
            more = fleet.submit(fleet.put_picture(small_picture(), "in/small.png"), "[sim:latency=600] once more")
            assert fleet.ended(more).state is State.SUCCEEDED
            seen = eventually(
                lambda: (t := restarted.tasks().get(more)) and t["state"] == "SUCCESS" and t,
                what="Flower shows the new task",
            )
            assert seen["runtime"] >= 0.6
            assert set(ids) < set(restarted.tasks())


def check_stats(fleet: Fleet, url: str, key: str, ids: list[str], outcomes: Mapping[str, int]) -> dict[str, Any]:
    """Compare `GET /v1/stats` with the records; return its entry of the model."""
    answer = httpx.get(url, headers={"authorization": f"Bearer {key}"}, timeout=30)
    stats: dict[str, Any] = answer.raise_for_status().json()
    model: dict[str, Any]
    (model,) = stats["fleet"]["models"]
    for jobs in (stats["tenant"]["jobs"], stats["fleet"]["jobs"], model["jobs"]):
        assert {state: number for state, number in jobs.items() if number} == EXPECTED
    assert {state: number for state, number in model["ended"].items() if number} == EXPECTED
    assert {outcome: number for outcome, number in model["attempts"].items() if number} == outcomes
    assert model["submitted"] == 500
    assert model["started"] == sum(outcomes.values())
    assert stats["fleet"]["last_hour"]["succeeded"] == 370
    assert stats["fleet"]["last_hour"]["retried"] == outcomes["retry"]
    assert model["cost_usd"] == round(sum(job.cost_usd for job in fleet.domain.job_reader.get_many("acme", ids)), 6)
    return model


def check_metrics(url: str, model: Mapping[str, Any], outcomes: Mapping[str, int]) -> None:
    """Compare `GET /metrics` with the records."""
    metrics = scraped(url)
    for state in State:
        assert total(metrics, "retouch_jobs", state=state) == EXPECTED.get(state, 0)
    for outcome in model["attempts"]:
        assert total(metrics, "retouch_attempts_total", outcome=outcome) == outcomes[outcome], outcome
    assert total(metrics, "retouch_attempts_started_total", model=MODEL) == model["started"]


def check_flower(fleet: Fleet, flower: Flower, ids: list[str], outcomes: Mapping[str, int]) -> str:
    """Compare Flower's tasks and counters with the records; return the id of a job that was retried."""
    tasks = flower.tasks()
    assert set(tasks) == set(ids)
    retried = ids[0]
    for job_id in ids:
        attempts = fleet.job(job_id).attempts
        assert json.loads(tasks[job_id]["args"].replace("'", '"')) == [job_id, len(attempts)]
        retried = job_id if len(attempts) > 1 else retried
    assert tasks[retried]["retries"] is not None
    events = scraped(f"{flower.root}/metrics")
    for event, number in (
        ("task-succeeded", outcomes["succeeded"]),
        ("task-failed", outcomes["failed"] + outcomes["filtered"]),
        ("task-retried", outcomes["retry"] + outcomes["rate_limited"]),
        ("task-started", sum(outcomes.values())),
    ):
        assert total(events, "flower_events_total", type=event, task="edit") == number, event
    return retried


def test_flower_shows_the_results_of_deliveries_and_ingests(make_fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    fleet = make_fleet()
    domain = fleet.domain
    bucket = domain.settings.s3_bucket
    image = fleet.put_picture(small_picture(), "in/small.png")
    domain.quotas.set("globex", Quotas(max_queued=1))
    with Flower(domain.settings, tmp_path) as flower, receiving() as receiver:
        worker = fleet.worker(queues="edits,webhooks,ingest")
        eventually(lambda: flower.sees(worker.name), what="Flower sees the worker")
        status = {"/takes-it": 200, "/is-busy": 503, "/is-gone": 410}
        receiver.answer = lambda got, _: Answer(status[got.path])
        for path in status:
            domain.endpoints.create("acme", EndpointFields(url=receiver.url + path, events=["batch.completed"]))

        def batch(tenant: str, column: str, rows: int) -> str:
            manifest = "\n".join([f"custom_id,{column}", *(f"{n},{image}" for n in range(rows))]).encode()
            fleet.domain.bucket.put(bucket, f"in/{column}-{rows}.csv", manifest, media_type="text/csv")
            request = {"manifest": f"s3://{bucket}/in/{column}-{rows}.csv", "defaults": {"prompt": "brighter"}}
            parsed = BatchRequest.model_validate(request)
            return domain.batch_submission.submit(parsed, tenant=tenant).batch.id

        good, bad, too_many = batch("acme", "image", 2), batch("acme", "colour", 2), batch("globex", "image", 3)

        def shown(name: str) -> dict[str, str]:
            tasks = (task for task in flower.tasks().values() if task["name"] == name)
            return {json.loads(task["args"].replace("'", '"'))[0]: task["state"] for task in tasks}

        ingests = {good: "SUCCESS", bad: "FAILURE", too_many: "RETRY"}
        eventually(lambda: shown("ingest") == ingests, what="Flower shows how each ingest went")

        def attempted() -> dict[str, str]:
            page = domain.delivery_log.page("acme", DeliveryFilter(subject=good), limit=10)
            return {str(item.id): urlsplit(item.url).path for item in page.data if item.attempts}

        eventually(lambda: len(attempted()) == len(status), what="each endpoint has one attempt")
        expected = {"/takes-it": "SUCCESS", "/is-busy": "RETRY", "/is-gone": "FAILURE"}
        deliveries = {delivery_id: expected[path] for delivery_id, path in attempted().items()}
        eventually(lambda: shown("deliver") == deliveries, what="Flower shows how each delivery went")
        events = scraped(f"{flower.root}/metrics")
        for task, event in (("deliver", "task-succeeded"), ("deliver", "task-failed"), ("ingest", "task-succeeded")):
            assert total(events, "flower_events_total", type=event, task=task) == 1, (task, event)


def test_flower_shows_a_task_that_ends_while_its_worker_drains(
    make_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = make_fleet()
    with Flower(fleet.domain.settings, tmp_path) as flower:
        worker = fleet.worker()
        eventually(lambda: flower.sees(worker.name), what="Flower sees the worker")
        image = fleet.put_picture(small_picture(), "in/small.png")
        prompt = "[sim:latency=2500] to its end"
        job_id = fleet.submit(image, prompt)
        eventually(lambda: fleet.calls(prompt=prompt)["calls"], what="the call has begun")
        worker.terminate()
        assert fleet.ended(job_id).state is State.SUCCEEDED
        eventually(lambda: worker.process.poll() is not None, what="the worker has ended")
        eventually(lambda: flower.tasks().get(job_id, {}).get("state") == "SUCCESS", what="Flower shows its end")


def test_a_repeated_message_does_not_change_a_success_in_flower(
    make_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = make_fleet()
    with Flower(fleet.domain.settings, tmp_path) as flower:
        worker = fleet.worker(concurrency=1)
        eventually(lambda: flower.sees(worker.name), what="Flower sees the worker")
        image = fleet.put_picture(small_picture(), "in/small.png")
        job_id = fleet.submit(image, "once")
        assert fleet.ended(job_id).state is State.SUCCEEDED
        eventually(lambda: flower.tasks().get(job_id, {}).get("state") == "SUCCESS", what="Flower shows its end")
        fleet.domain.publisher.publish_edits([Dispatch(job_id, 1)])

        def started() -> float:
            return total(scraped(f"{flower.root}/metrics"), "flower_events_total", type="task-started", task="edit")

        eventually(lambda: started() == 2, what="Flower shows two starts")
        after = fleet.submit(image, "after")
        eventually(
            lambda: flower.tasks().get(after, {}).get("state") == "SUCCESS", what="Flower shows the next job's end"
        )
        assert flower.tasks()[job_id]["state"] == "SUCCESS"
    lines = [json.loads(line) for line in flower.log.read_text().splitlines()]
    assert any(line["event"].startswith("Visit me at http://") for line in lines)


def test_flower_requires_its_password_and_rejects_actions(fleet: Fleet, tmp_path: Path) -> None:
    with Flower(fleet.domain.settings, tmp_path, "--url-prefix", "/behind/flower", prefix="/behind/flower") as flower:
        for path in ("/", "/tasks", "/api/tasks", "/api/workers"):
            assert httpx.get(flower.root + path, trust_env=False, timeout=60).status_code == 401, path
            wrong = httpx.get(flower.root + path, trust_env=False, auth=("watcher", "guess"), timeout=60)
            assert wrong.status_code == 401, path
        assert flower.get("/api/tasks") == {}
        action = httpx.post(f"{flower.root}/api/worker/shutdown/any@worker", auth=LOGIN, trust_env=False, timeout=60)
        assert action.status_code == 403, action.text
        assert total(scraped(f"{flower.root}/metrics"), "python_info") == 1


def test_flower_does_not_start_without_a_password(fleet: Fleet) -> None:
    for login in ("", "user", "user:", ":password", "user:password,other"):
        environment = environment_of(fleet.domain.settings, FLOWER_BASIC_AUTH=login)
        command = [sys.executable, "-m", "retouch", "flower", "--port", "1"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 2, login
        assert "FLOWER_BASIC_AUTH" in ended.stderr


def test_flower_receives_events_after_a_restart_of_the_broker(
    make_fleet: Callable[..., Fleet], make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with Valkey(tmp_path / "broker") as broker:
        fleet = make_fleet(settings=make_settings(broker_url=SecretStr(broker.url)))
        with Flower(fleet.domain.settings, tmp_path) as flower:
            worker = fleet.worker()
            eventually(lambda: flower.sees(worker.name), what="Flower sees the worker")
            image = fleet.put_picture(small_picture(), "in/small.png")
            before = fleet.submit(image, "before")
            eventually(lambda: flower.tasks().get(before, {}).get("state") == "SUCCESS", what="Flower shows its end")
            broker.restart()

            def shows_another_task() -> bool:
                job_id = fleet.submit(image, "after")
                assert fleet.ended(job_id).state is State.SUCCEEDED
                return flower.tasks().get(job_id, {}).get("state") == "SUCCESS"

            eventually(shows_another_task, what="Flower shows new tasks again")
            assert flower.tasks()[before]["state"] == "SUCCESS"
