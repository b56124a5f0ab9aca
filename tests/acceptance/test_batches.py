"""Batches with real worker processes: the commands, a manifest from the web, and killed workers."""

import csv
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.local.harness import simulator_process
from jobs.batches.models import ENDED, Batch, BatchOptions
from jobs.batches.submission import Upload
from jobs.foundation.ids import batch_job_prefix
from jobs.foundation.job_states import State
from jobs.foundation.settings import Settings
from tests.support.api_server import served
from tests.support.batches import adds_up
from tests.support.fleet import Fleet
from tests.support.photographs import photograph
from tests.support.waiting import eventually

PICTURES = ("rocket.jpg", "coffee.png", "chelsea.png")


class Shop:
    """A tenant who uses the `retouch` command."""

    def __init__(self, fleet: Fleet, url: str, home: Path) -> None:
        self.fleet = fleet
        self.key = fleet.domain.api_keys.create("acme")
        self.home = home
        self.environment = {
            **os.environ,
            "RETOUCH_URL": url,
            "RETOUCH_API_KEY": self.key,
            "XDG_CACHE_HOME": str(home / "cache"),
        }

    def retouch(self, *arguments: str, status: int = 0) -> str:
        """Run the command and return its stdout."""
        done = subprocess.run(
            [sys.executable, "-m", "retouch", *arguments],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == status, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.retouch(*arguments, "--json", status=status))

    def images(self, number: int) -> list[str]:
        data = photograph(PICTURES[0]).read_bytes()
        return [self.fleet.put_picture(data, f"shop/{n}.jpg") for n in range(1, number + 1)]


@pytest.fixture
def shop(fleet: Fleet, tmp_path: Path) -> Iterator[Shop]:
    fleet.worker(queues="edits,ingest")
    with served(fleet.domain) as url:
        yield Shop(fleet, url, tmp_path)


def upload(fleet: Fleet, data: bytes, **options: Any) -> str:
    request = BatchOptions.model_validate({"defaults": {"prompt": "brighter"}, **options})
    upload = Upload("m.csv", [data], "0")
    return fleet.domain.batch_submission.submit(request, tenant="acme", upload=upload).batch.id


def table(rows: list[tuple[str, str]]) -> bytes:
    return "\n".join(["custom_id,image", *(f"{name},{image}" for name, image in rows)]).encode()


def batch_of(fleet: Fleet, batch_id: str) -> Batch:
    return fleet.domain.batches.get("acme", batch_id)


def has_read(fleet: Fleet, batch_id: str, rows: int) -> bool:
    return batch_of(fleet, batch_id).counts.total > rows


def test_a_catalogue_from_trial_to_downloaded_pictures(shop: Shop) -> None:
    rows = [(f"SKU-{n}", image) for n, image in enumerate(shop.images(5), 1)]
    catalogue = shop.home / "catalogue.csv"
    catalogue.write_bytes(table([*rows, ("BAD", "nowhere")]))
    submit = (
        "submit",
        str(catalogue),
        "--prompt",
        "on white",
        "--trial",
        "2",
        "--name",
        "winter",
        "--sheet",
        "--watch",
    )
    trial = shop.json(*submit, status=1)  # one row was refused
    assert (trial["state"], trial["counts"]["succeeded"], trial["counts"]["rejected"]) == ("awaiting_approval", 2, 1)
    batch_id = trial["id"]
    done = shop.json("approve", batch_id, "--prompt", "on marble", "--watch", status=1)
    assert (done["state"], done["counts"]["succeeded"]) == ("completed", 5)
    assert shop.json("show", batch_id)["name"] == "winter"
    assert shop.json("list", "--batches")["data"][0]["id"] == batch_id
    lines = [json.loads(line) for line in shop.retouch("results", batch_id, status=1).splitlines()]
    assert [(line["custom_id"], line["state"]) for line in lines] == [
        *((name, "succeeded") for name, _ in rows),
        ("BAD", "rejected"),
    ]
    assert [line["prompt"] for line in lines[:3]] == ["on white", "on white", "on marble"]
    shop.retouch("results", batch_id, "-o", "results.csv", status=1)
    text = (shop.home / "results.csv").read_text("utf-8-sig")
    assert [row["custom_id"] for row in csv.DictReader(io.StringIO(text))] == [*(name for name, _ in rows), "BAD"]
    eventually(lambda: batch_of(shop.fleet, batch_id).results, what="the results are in the bucket")
    first = shop.json("download", batch_id, "pictures", "--sheet")
    assert (first["fetched"], first["failed"]) == (5, 0)
    assert "data:image/jpeg;base64," in (shop.home / "pictures" / "sheet.html").read_text()
    (shop.home / "pictures" / "SKU-3.png").write_bytes(b"cut short")
    again = shop.json("download", batch_id, "pictures")
    assert (again["fetched"], again["there_already"]) == (1, 4)


def test_repeated_submissions_of_the_same_files_create_one_batch(shop: Shop) -> None:
    photos = shop.home / "photos"
    photos.mkdir()
    for name in PICTURES:
        (photos / name).write_bytes(photograph(name).read_bytes())
    files = sorted(str(path) for path in photos.iterdir())
    first = shop.json("submit", *files, "--prompt", "on white", "--watch")
    assert (first["state"], first["counts"]["succeeded"]) == ("completed", 3)
    again = shop.json("submit", *files, "--prompt", "on white")
    assert again["id"] == first["id"]
    other = shop.json("submit", *files, "--prompt", "on black", "--watch")
    assert other["id"] != first["id"]
    entries = [json.loads(line) for line in shop.retouch("results", first["id"]).splitlines()]
    assert [entry["custom_id"] for entry in entries] == sorted(PICTURES)


def test_retry_runs_the_failed_jobs_of_a_batch_again(shop: Shop) -> None:
    shop.fleet.knobs(error_rate=1.0, error_statuses=[400])
    (shop.home / "c.csv").write_bytes(table([("A", shop.images(1)[0])]))
    failed = shop.json("submit", "c.csv", "--prompt", "x", "--watch", status=1)
    assert failed["counts"]["failed"] == 1
    shop.fleet.knobs(error_rate=0.0)
    shop.json("retry", failed["id"])
    done = shop.json("watch", failed["id"])
    assert (done["state"], done["counts"]["succeeded"]) == ("completed", 1)
    shop.json("cancel", failed["id"], status=1)


def test_a_batch_stops_if_it_is_canceled_while_it_runs(shop: Shop) -> None:
    # On a busy machine, too, `retouch cancel` starts before the batch ends.
    shop.fleet.knobs(latency_ms=2000)
    try:
        (image,) = shop.images(1)
        rows = [(f"SKU-{n}", image) for n in range(1, 201)]
        (shop.home / "c.csv").write_bytes(table(rows))
        batch_id = shop.json("submit", "c.csv", "--prompt", "x")["id"]
        eventually(lambda: batch_of(shop.fleet, batch_id).counts.succeeded, what="some jobs have succeeded")
        canceled = shop.json("cancel", batch_id)["data"][0]
        assert canceled["state"] == "canceled"
        eventually(lambda: batch_of(shop.fleet, batch_id).results, what="the results are in the bucket")
        batch = batch_of(shop.fleet, batch_id)
        assert adds_up(batch)
        assert batch.counts.canceled == 200 - batch.counts.succeeded
        eventually(lambda: shop.fleet.calls()["in_flight"] == 0, what="the running calls have ended")
    finally:
        shop.fleet.knobs(latency_ms=0)


@pytest.mark.parametrize("seed", [1, 2])
def test_an_ingest_worker_killed_at_any_row_loses_and_repeats_no_row(
    make_fleet: Callable[..., Fleet], make_settings: Callable[..., Settings], seed: int
) -> None:
    fleet = make_fleet(settings=make_settings(lease_s=5))
    rows = 6000
    dice = random.Random(seed)
    data = table([(f"SKU-{n}", f"https://example.com/{n}.jpg") for n in range(1, rows + 1)])
    batch_id = upload(fleet, data, trial=1)
    fleet.domain.batches.pause("acme", batch_id)  # this test is about the rows, not about their jobs
    kill_at = [dice.randrange(rows // 4), dice.randrange(rows // 2)]
    for least in kill_at:
        victim = fleet.worker(queues="ingest")
        eventually(partial(has_read, fleet, batch_id, least), what=f"{least} rows are read")
        victim.kill()
    fleet.worker(queues="ingest")
    eventually(lambda: batch_of(fleet, batch_id).ingested, what="all rows are read")
    batch = batch_of(fleet, batch_id)
    assert (batch.counts.total, batch.counts.rejected) == (rows, 0)
    assert adds_up(batch)
    domain = fleet.domain
    prefix = domain.keys.job(batch_job_prefix(batch_id))
    index: Any = domain.redis.zrangebylex(domain.keys.index("acme", State.QUEUED), f"[{prefix}", f"({prefix}\xff")
    assert len(index) == rows
    lanes: Any = domain.redis.smembers(domain.keys.batch_lanes(batch_id))
    lines = [domain.redis.lrange(str(domain.redis.hget(lane, "list")), 0, -1) for lane in lanes]
    queued = [job for line in lines for job in line]
    assert sorted(queued) == sorted(index)
    for key in dice.sample(index, 50):
        assert domain.job_reader.get("acme", domain.keys.id_of(key)).custom_id == f"SKU-{int(key[-7:])}"


def test_counts_add_up_and_one_event_reports_the_end_after_failures(make_fleet: Callable[..., Fleet]) -> None:
    with simulator_process(latency_ms=60, latency_jitter_ms=50, error_rate=0.15, reset_rate=0.05) as origin:
        fleet = make_fleet(origin)
        image = fleet.put_picture(photograph(PICTURES[0]).read_bytes(), "shop/a.jpg")
        victim = fleet.worker(queues="edits,ingest")
        batch_id = upload(fleet, table([(f"SKU-{n}", image) for n in range(1, 81)]))
        eventually(lambda: batch_of(fleet, batch_id).counts.succeeded >= 10, what="some jobs have succeeded")
        victim.kill()
        fleet.worker(queues="edits,ingest")
        eventually(lambda: batch_of(fleet, batch_id).state in ENDED, what="the batch ends")
        batch = batch_of(fleet, batch_id)
        assert adds_up(batch)
        assert batch.counts.succeeded + batch.counts.failed == 80
        states = [job.state for job in fleet.domain.job_reader.page("acme", batch_id=batch_id, limit=100).data]
        assert states.count(State.SUCCEEDED) == batch.counts.succeeded
        events: Any = fleet.domain.redis.xrange(fleet.domain.keys.outbox)
        assert [fields["type"] for _, fields in events if fields["type"].startswith("batch.")] == ["batch.completed"]


def test_workers_download_a_manifest_from_the_web(fleet: Fleet, tmp_path: Path) -> None:
    fleet.worker(queues="ingest")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "m.jsonl").write_text('{"custom_id": "A", "image": "https://example.com/a.jpg"}\n')
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", str(tmp_path / "web")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().split(" port ")[1].split()[0]
        with (
            served(fleet.domain) as url,
            httpx.Client(
                base_url=url, headers={"Authorization": f"Bearer {fleet.domain.api_keys.create('acme')}"}, timeout=60
            ) as http,
        ):
            batches = {}
            for name in ("m.jsonl", "absent.jsonl"):
                body = {"manifest": f"http://127.0.0.1:{port}/{name}", "defaults": {"prompt": "x"}}
                batches[name] = http.post("/v1/batches", json=body).json()["id"]
            eventually(lambda: batch_of(fleet, batches["m.jsonl"]).ingested, what="the manifest is read")
            assert batch_of(fleet, batches["m.jsonl"]).counts.total == 1
            eventually(
                lambda: batch_of(fleet, batches["absent.jsonl"]).state in ENDED,
                what="the batch without a manifest ends",
            )
            assert "404" in str(batch_of(fleet, batches["absent.jsonl"]).reason)
    finally:
        server.terminate()
        server.wait(10)
