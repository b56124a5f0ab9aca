"""One job from submit to bucket, through a real worker, a real bucket and the simulator."""

import hashlib
from io import BytesIO

from PIL import Image

from infra.local.harness import MODEL
from jobs.foundation.job_states import State
from tests.support.fleet import Fleet
from tests.support.photographs import photograph
from tests.support.waiting import eventually


def test_a_photograph_is_edited_and_stored_with_its_hash_and_metadata(fleet: Fleet) -> None:
    fleet.worker()
    data = photograph("coffee.png").read_bytes()
    job = fleet.ended(fleet.submit(fleet.put_picture(data, "in/coffee.png"), "a calm blue morning"))
    assert job.state is State.SUCCEEDED, job.error
    assert job.output is not None
    data_out = fleet.domain.bucket.get(job.output.bucket, job.output.key, max_bytes=1 << 26)
    assert hashlib.sha256(data_out).hexdigest() == job.output.sha256
    assert Image.open(BytesIO(data_out)).size == Image.open(BytesIO(data)).size
    stored = fleet.domain.bucket.head(job.output.bucket, job.output.key)
    assert stored is not None
    assert stored.media_type == job.output.media_type
    assert (stored.metadata["job-id"], stored.metadata["model"], stored.metadata["seed"]) == (job.id, job.model, "1")
    assert job.input.sha256 == hashlib.sha256(data).hexdigest()
    assert job.cost_usd > 0
    assert fleet.calls(prompt="a calm blue morning")["calls"] == 1


def test_temporary_failures_are_retried_and_every_attempt_is_recorded(fleet: Fleet) -> None:
    fleet.worker()
    image = fleet.put_picture(photograph("chelsea.png").read_bytes(), "in/chelsea.png")
    prompts = {
        "status": "[sim:fail=503*2] a",
        "reset": "[sim:reset*1] b",
        "truncated": "[sim:truncate*1] c",
        "garbage": "[sim:garbage*1] d",
        "undecodable": "[sim:badimage*1] e",
        "size": "[sim:wrongsize*1] f",
        "concurrency": "[sim:429conc*1] h",
        "download": "[sim:download_fail*2] i",
    }
    jobs = {name: fleet.submit(image, prompt) for name, prompt in prompts.items()}
    outcomes = {}
    for name, job_id in jobs.items():
        job = fleet.ended(job_id)
        assert job.state is State.SUCCEEDED, (name, job.error)
        outcomes[name] = [attempt.outcome for attempt in job.attempts]
    assert outcomes.pop("status") == ["retry", "retry", "succeeded"]
    assert outcomes.pop("download")[-1] == "succeeded"
    assert outcomes.pop("concurrency") == ["rate_limited", "succeeded"]
    assert set(map(tuple, outcomes.values())) == {("retry", "succeeded")}
    assert fleet.calls(prompt="[sim:download_fail*2] i")["calls"] == 1


def test_a_429_lowers_the_pace_to_the_limit_in_the_answer(fleet: Fleet) -> None:
    fleet.worker()
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    job = fleet.ended(fleet.submit(image, "[sim:429rpm*1] x"))
    assert [attempt.outcome for attempt in job.attempts] == ["rate_limited", "succeeded"]
    assert 9 < fleet.domain.status.models()[0].pace_rpm <= 10


def test_a_content_refusal_makes_the_job_filtered_and_is_not_retried(fleet: Fleet) -> None:
    fleet.worker()
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    for prompt, billed in (("[sim:censored] x", 0.0), ("[sim:filtered] y", 0.003)):
        job = fleet.ended(fleet.submit(image, prompt))
        assert job.state is State.FILTERED
        assert job.error is not None
        assert not job.error.retryable
        assert job.error.trace_id
        assert job.cost_usd == billed
        assert fleet.calls(prompt=prompt)["calls"] == 1


def test_a_request_that_the_endpoint_rejects_fails_at_once(fleet: Fleet) -> None:
    fleet.worker()
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    job = fleet.ended(fleet.submit(image, "[sim:fail=400] x"))
    assert job.state is State.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.provider_status, job.error.retryable) == ("request_refused", 400, False)


def test_a_missing_picture_fails_the_job_with_its_address(fleet: Fleet) -> None:
    fleet.worker()
    job = fleet.ended(fleet.submit(f"s3://{fleet.domain.settings.s3_bucket}/in/nothing.png"))
    assert job.state is State.FAILED
    assert job.error is not None
    assert "in/nothing.png" in job.error.message


def test_a_job_canceled_while_it_runs_stays_canceled_without_output(fleet: Fleet) -> None:
    fleet.worker()
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    prompt = "[sim:latency=6000] slowly"
    job_id = fleet.submit(image, prompt)
    eventually(lambda: fleet.calls(prompt=prompt)["calls"], what="the call has begun")
    fleet.domain.planner.cancel(job_id)
    eventually(
        lambda: fleet.domain.redis.hget(fleet.domain.keys.model(MODEL), "in_flight") == "0",
        what="the model has no call in flight",
    )
    job = fleet.job(job_id)
    assert job.state is State.CANCELED
    assert job.output is None
    assert job.cost_usd == 0.003
