"""Equal edits are reused instead of bought again; the simulator counts the calls."""

import hashlib
import socket

import pytest

from jobs.foundation.job_states import State
from jobs.records.job_models import Job, JobRequest
from tests.support.fleet import Fleet
from tests.support.local_editor import Studio, picture, unique
from tests.support.loopback import Request, answer, serve


@pytest.fixture
def studio(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setenv("STEP_API_KEY", "sim-key")
    return Studio(fleet)


def whole(studio: Studio, job: Job) -> bool:
    """Whether a job's output is in the bucket as its record says."""
    assert job.output is not None
    return hashlib.sha256(studio.bytes_of(job)).hexdigest() == job.output.sha256


def test_an_equal_edit_reuses_the_output_and_costs_nothing(studio: Studio) -> None:
    prompt = unique("brighter")
    image = studio.put("in/equal.png", 1)
    first = studio.job(studio.batch([{"custom_id": "A", "image": image}], prompt))
    batch_id = studio.batch([{"custom_id": "A", "image": image}], prompt, defaults={"reuse": True})
    second = studio.job(batch_id)
    assert studio.calls(prompt) == 1
    assert second.state is State.SUCCEEDED
    assert first.output is not None
    assert second.output is not None
    assert (first.output.reused, second.output.reused) == (False, True)
    assert (first.cost_usd, second.cost_usd) == (0.003, 0.0)
    assert second.output.sha256 == first.output.sha256
    assert second.output.seed == first.output.seed
    assert second.output.key != first.output.key
    assert whole(studio, second)
    shown = studio.shown(batch_id)
    assert (shown.counts.reused, shown.counts.succeeded, shown.cost_usd) == (1, 1, 0.0)
    there = studio.domain.bucket.head(second.output.bucket, second.output.key)
    assert there is not None
    assert (there.metadata["job-id"], there.metadata["reused-from"]) == (second.id, first.id)


def test_the_same_bytes_at_another_address_are_the_same_picture(studio: Studio) -> None:
    prompt = unique("the same bytes")
    one, other = studio.put("in/one.png", 2), studio.put("in/other.png", 2)
    studio.batch([{"custom_id": "A", "image": one}], prompt)
    batch_id = studio.batch([{"custom_id": "B", "image": other}], prompt, defaults={"reuse": True})
    assert studio.shown(batch_id).counts.reused == 1
    assert studio.calls(prompt) == 1


@pytest.mark.parametrize(
    ("first", "second", "bought"),
    [
        ({}, {}, 1),
        ({"seed": 7}, {"seed": 7}, 1),
        ({"seed": 7}, {"seed": 8}, 2),
        ({}, {"seed": 7}, 2),
        ({"steps": 8}, {"steps": 9}, 2),
        ({"steps": 8}, {"steps": 8}, 1),
        ({"size": "512x512"}, {}, 1),
        ({"custom_id": "X"}, {"custom_id": "Y"}, 1),
    ],
)
def test_every_field_that_changes_the_result_is_part_of_the_match(
    studio: Studio, first: dict[str, object], second: dict[str, object], bought: int
) -> None:
    prompt = unique("match")
    image = studio.put("in/match.png", 3)
    for fields in (first, second):
        studio.batch([{"image": image, **fields}], prompt, defaults={"reuse": True})
    assert studio.calls(prompt) == bought


def test_a_seed_in_the_defaults_counts_as_given_by_the_user(studio: Studio) -> None:
    prompt = unique("seed")
    image = studio.put("in/seed.png", 4)
    for seed in (7, 8, 8):
        studio.batch([{"image": image}], prompt, defaults={"reuse": True, "seed": seed})
    assert studio.calls(prompt) == 2


def test_a_single_job_reuses_and_is_reused(studio: Studio) -> None:
    prompt = unique("single")
    image = studio.put("in/single.png", 5)
    ids = []
    for reuse in (None, True, False):
        request = JobRequest(image=image, prompt=prompt, reuse=reuse)
        ids.append(studio.domain.job_submission.submit(request, tenant="acme").job.id)
        studio.finish()
    jobs = [studio.domain.job_reader.get("acme", job_id) for job_id in ids]
    assert [job.output.reused for job in jobs if job.output] == [False, True, False]
    assert studio.calls(prompt) == 2


def test_another_tenants_edit_is_not_reused(studio: Studio) -> None:
    prompt = unique("tenants")
    image = studio.put("in/tenants.png", 6)
    studio.batch([{"image": image}], prompt)
    other = Studio(studio.fleet, "globex")
    other.batch([{"image": image}], prompt, defaults={"reuse": True})
    assert studio.calls(prompt) == 2


@pytest.mark.parametrize("fate", ["deleted", "overwritten"])
def test_a_deleted_output_is_bought_again(studio: Studio, fate: str) -> None:
    prompt = unique(fate)
    image = studio.put("in/fate.png", 7)
    job = studio.job(studio.batch([{"custom_id": "A", "image": image}], prompt))
    assert job.output is not None
    if fate == "deleted":
        studio.domain.bucket.delete(job.output.bucket, job.output.key)
    else:
        studio.domain.bucket.put(job.output.bucket, job.output.key, picture(8), media_type="image/png")
    batch_id = studio.batch([{"custom_id": "A", "image": image}], prompt, defaults={"reuse": True})
    assert studio.calls(prompt) == 2
    assert studio.shown(batch_id).counts.reused == 0
    assert whole(studio, studio.job(batch_id))


def test_a_reused_result_already_at_its_key_is_not_written_again(studio: Studio) -> None:
    prompt = unique("in place")
    image = studio.put("in/place.png", 9)
    defaults = {"reuse": True, "output_key": "shop/{custom_id}.{ext}"}
    first = studio.job(studio.batch([{"custom_id": "place", "image": image}], prompt, defaults=defaults))
    second = studio.job(studio.batch([{"custom_id": "place", "image": image}], prompt, defaults=defaults))
    assert first.output is not None
    assert second.output is not None
    assert second.output.key == first.output.key
    there = studio.domain.bucket.head(first.output.bucket, first.output.key)
    assert there is not None
    assert there.metadata["job-id"] == first.id
    assert whole(studio, second)


def test_an_unchanged_picture_in_the_bucket_is_not_read_again(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = unique("unread")
    image = studio.put("in/unread.png", 10)
    studio.batch([{"image": image}], prompt, defaults={"reuse": True})
    read: list[str] = []
    plain = studio.domain.bucket.read

    def counted(bucket: str, key: str, *, max_bytes: int) -> tuple[bytes, str]:
        read.append(key)
        return plain(bucket, key, max_bytes=max_bytes)

    monkeypatch.setattr(studio.domain.bucket, "read", counted)
    second = studio.job(studio.batch([{"image": image}], prompt, defaults={"reuse": True}))
    assert read == []
    assert second.output is not None
    assert second.output.reused
    assert (second.input.width, second.input.sha256) == (32, hashlib.sha256(picture(10)).hexdigest())
    studio.put("in/unread.png", 11)
    third = studio.job(studio.batch([{"image": image}], prompt, defaults={"reuse": True}))
    assert read == ["in/unread.png"]
    assert third.output is not None
    assert not third.output.reused
    assert studio.calls(prompt) == 2


def test_an_unchanged_picture_on_the_web_is_revalidated_by_its_etag(studio: Studio) -> None:
    prompt = unique("etag")
    held = {"etag": '"v1"', "body": picture(12)}

    def script(connection: socket.socket, request: Request) -> None:
        etag, body = str(held["etag"]), held["body"]
        if request.headers.get("if-none-match") == etag:
            connection.sendall(answer(304, etag=etag))
        else:
            connection.sendall(answer(200, body if isinstance(body, bytes) else b"", etag=etag))

    with serve(script) as server:
        items = [{"image": f"{server.url}/a.png"}]
        for _ in range(3):
            studio.batch(items, prompt, defaults={"reuse": True})
        assert studio.calls(prompt) == 1
        assert [request.headers.get("if-none-match") for request in server.requests] == [None, '"v1"', '"v1"']
        held |= {"etag": '"v2"', "body": picture(13)}
        studio.batch(items, prompt, defaults={"reuse": True})
        assert studio.calls(prompt) == 2
        # Another prompt needs the bytes, although they have not changed.
        another = unique("another")
        studio.batch(items, another, defaults={"reuse": True})
        assert studio.calls(another) == 1
        assert [request.headers.get("if-none-match") for request in server.requests][4:] == ['"v2"', None]


def test_a_weak_etag_does_not_prove_equal_bytes(studio: Studio) -> None:
    prompt = unique("weak")
    with serve(answer(200, picture(14), etag='W/"v1"')) as server:
        for _ in range(2):
            studio.batch([{"image": f"{server.url}/a.png"}], prompt, defaults={"reuse": True})
        assert [request.headers.get("if-none-match") for request in server.requests] == [None, None]
    assert studio.calls(prompt) == 1
