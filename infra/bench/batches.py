"""A batch of a hundred thousand rows through a real API and a real worker: time, memory, and what acts cost.

No worker edits here: the rows stay on their lanes, so that what is measured is the batch and not the edits. A sample of
the jobs is ended by this process, with answers as long as real ones, to weigh the records of ended jobs.

    python -m infra.bench.batches [--rows 100000]
"""

import argparse
import io
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.bench.workbench import TENANT, Bench, bench, row, until
from infra.local.harness import Process, api_process
from infra.local.ports import Ports
from jobs.foundation.ids import batch_job_id
from jobs.plan.records import Claim
from jobs.plan.settlement import OK, Settlement
from jobs.records.job_models import Checkpoint, Input, Output
from retouch import Client

SAMPLE = 2000
LINE = "SKU-{n:08d},https://images.example.com/catalogue/2026/winter/product-{n:08d}.jpg,Winter boot {n}\n"
MODEL_LIMITS: dict[str, object] = {"concurrency": 1000, "rpm": 1_000_000, "price_usd": 0.003}


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description="A batch of many rows.")
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with bench(limits=MODEL_LIMITS) as stand:
        port = Ports().choose("api")
        api = api_process(stand.domain.settings, stand.directory / "api.log", port)
        try:
            key = stand.domain.api_keys.create(TENANT)
            api.wait_until(lambda: _answers(port, key))
            with Client(f"http://127.0.0.1:{port}", key, timeout=120) as client:
                _measure(stand, api, client, rows)
        finally:
            api.close()


def _answers(port: int, key: str) -> bool:
    try:
        with Client(f"http://127.0.0.1:{port}", key) as client:
            return bool(client.models())
    except Exception:  # noqa: BLE001 - whatever it is, it does not answer yet
        return False


def _measure(stand: Bench, api: Process, client: Client, rows: int) -> None:
    worker = stand.worker(concurrency=4, queues="ingest")
    redis = stand.domain.redis
    manifest = stand.directory / "catalogue.csv"
    with manifest.open("w", encoding="utf-8") as file:
        file.write("custom_id,image,metadata.title\n")
        file.writelines(LINE.format(n=n) for n in range(1, rows + 1))
    empty = int(redis.info("memory")["used_memory"])
    print(f"{rows:,} rows of CSV, {manifest.stat().st_size / 1e6:.1f} MB")  # noqa: T201 - this is its output

    began = time.perf_counter()
    batch = client.batches.submit(manifest, prompt="On a white background")
    accepted = time.perf_counter()
    until(lambda: client.batches.get(batch.id).counts.queued, 60)
    first = time.perf_counter()
    until(lambda: client.batches.get(batch.id).ingested, 300)
    ended = time.perf_counter()
    queued = int(redis.info("memory")["used_memory"])
    row("accepted (202)", f"{accepted - began:.2f} s")
    row("first rows on their lane", f"{first - began:.2f} s")
    row("all rows on their lane (target 20 s)", f"{ended - began:.1f} s", f"{rows / (ended - accepted):.0f} rows/s")
    row("Redis, a queued job", f"{(queued - empty) / rows:.0f} bytes")
    row("Redis, an ended job (target 1,500)", f"{_weigh_ended(stand, batch.id, (queued - empty) / rows):.0f} bytes")

    row("read", _timed(lambda: client.batches.get(batch.id)))
    row("list", _timed(lambda: list(client.batches.list(limit=10))))
    row("list its jobs", _timed(lambda: list(client.jobs(batch_id=batch.id, limit=50))))
    row("pause", _timed(lambda: client.batches.pause(batch.id)))
    row("resume", _timed(lambda: client.batches.resume(batch.id)))
    held = io.BytesIO()
    row("results as JSONL", _timed(lambda: client.batches.write(batch.id, "results", held)), _megabytes(held))
    held = io.BytesIO()
    row("results as CSV", _timed(lambda: client.batches.write(batch.id, "results", held, form="csv")), _megabytes(held))
    row("cancel", _timed(lambda: client.batches.cancel(batch.id)))
    began = time.perf_counter()
    until(lambda: not redis.hexists(stand.domain.keys.batch(batch.id), "sweep"), 300)
    row("its jobs' records have followed", f"{time.perf_counter() - began:.1f} s")
    until(lambda: client.batches.get(batch.id).results, 300)
    row("its record is in the bucket", f"{time.perf_counter() - began:.1f} s")
    row("retry all canceled", _timed(lambda: client.batches.retry(batch.id, ["canceled"])))
    began = time.perf_counter()
    until(lambda: not client.batches.get(batch.id).retrying, 300)
    row("all on their lane again", f"{time.perf_counter() - began:.1f} s")
    row("memory of the API, at most (target 300 MB)", f"{_peak_mb(api):.0f} MB")
    row("memory of the worker, at most (target 300 MB)", f"{_peak_mb(worker):.0f} MB")


def _weigh_ended(stand: Bench, batch_id: str, queued: float) -> float:
    """Bytes of Redis memory of a job that has ended, its part of the indexes included."""
    domain = stand.domain
    domain.planner.renew("bench", slots=SAMPLE, worker_info="{}", held=[])
    keys = [domain.keys.job(batch_job_id(batch_id, number)) for number in range(1, SAMPLE + 1)]
    before = sum(_usage(stand, key) for key in keys) / SAMPLE
    left = SAMPLE
    while left > 0:
        started = domain.planner.plan(limit=min(100, left)).dispatches
        for one in started:
            claim = domain.planner.claim(one.job_id, one.attempt, "bench")
            if claim is not None:
                _end(stand, claim)
        left -= len(started)
    domain.planner.depart("bench", gone=True)
    after = sum(_usage(stand, key) for key in keys) / SAMPLE
    return queued - before + after


def _end(stand: Bench, claim: Claim) -> None:
    source = Input(
        image=claim.input.image, sha256="a" * 64, bytes=512_000, media_type="image/jpeg", width=1024, height=1024
    )
    claim = replace(claim, input=source)
    now = datetime.now(UTC)
    answer = Checkpoint(kind="url", url="https://results.example.com/" + "x" * 80, at=now, attempt=claim.attempt)
    stand.domain.planner.checkpoint(claim, answer, cost_micro_usd=3000)
    output = Output(
        bucket=stand.domain.bucket.name,
        key=f"outputs/{claim.job_id[4:30]}/{claim.spec.custom_id}.png",
        sha256="b" * 64,
        bytes=1_024_000,
        media_type="image/png",
        width=1024,
        height=1024,
        seed=claim.spec.seed,
    )
    settlement = Settlement.succeeded(output, signal=OK, trace_id="0123456789abcdef0123456789abcdef")
    stand.domain.planner.settle(claim, settlement, finished_at=now)


def _usage(stand: Bench, key: str) -> int:
    answer: Any = stand.domain.redis.memory_usage(key, samples=0)
    return int(answer)


def _timed(act: Callable[[], object]) -> str:
    began = time.perf_counter()
    act()
    taken = time.perf_counter() - began
    return f"{taken * 1000:.0f} ms" if taken < 1 else f"{taken:.1f} s"


def _megabytes(held: io.BytesIO) -> str:
    return f"{held.tell() / 1e6:.1f} MB"


def _peak_mb(process: Process) -> float:
    """The most memory a process has held, in MB (proc(5), VmHWM)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
