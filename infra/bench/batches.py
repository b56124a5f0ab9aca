"""A batch of a hundred thousand rows with a real API and a real worker: time, memory, and the cost of commands.

No worker edits pictures: the rows stay on their lanes, so that the figures do not include edits. To measure the memory
of finished jobs, this process finishes a sample of the jobs with outputs of realistic length.

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

from infra.bench.workbench import TENANT, Bench, open_bench, row, until
from infra.local.harness import Process, api_process
from infra.local.ports import Ports
from jobs.foundation.ids import batch_job_id
from jobs.plan.records import Claim
from jobs.plan.settlement import OK, Settlement
from jobs.records.job_models import Checkpoint, Input, Output
from retouch.client import Client

SAMPLE = 2000
LINE = "SKU-{n:08d},https://images.example.com/catalogue/2026/winter/product-{n:08d}.jpg,Winter boot {n}\n"
MODEL_LIMITS: dict[str, object] = {"concurrency": 1000, "rpm": 1_000_000, "price_usd": 0.003}


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description="Measure a batch of many rows.")
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with open_bench(limits=MODEL_LIMITS) as bench:
        port = Ports().choose("api")
        api = api_process(bench.domain.settings, bench.directory / "api.log", port)
        try:
            key = bench.domain.api_keys.create(TENANT)
            api.wait_until(lambda: _answers(port, key))
            with Client(f"http://127.0.0.1:{port}", key, timeout=120) as client:
                _measure(bench, api, client, rows)
        finally:
            api.close()


def _answers(port: int, key: str) -> bool:
    try:
        with Client(f"http://127.0.0.1:{port}", key) as client:
            return bool(client.models())
    except Exception:  # noqa: BLE001 - any error means: not ready yet
        return False


def _measure(bench: Bench, api: Process, client: Client, rows: int) -> None:
    worker = bench.worker(concurrency=4, queues="ingest")
    redis = bench.domain.redis
    manifest = bench.directory / "catalogue.csv"
    with manifest.open("w", encoding="utf-8") as file:
        file.write("custom_id,image,metadata.title\n")
        file.writelines(LINE.format(n=n) for n in range(1, rows + 1))
    memory_before = int(redis.info("memory")["used_memory"])
    print(f"{rows:,} rows of CSV, {manifest.stat().st_size / 1e6:.1f} MB")  # noqa: T201 - the output of the benchmark

    began = time.perf_counter()
    batch = client.batches.submit(manifest, prompt="On a white background")
    accepted = time.perf_counter()
    until(lambda: client.batches.get(batch.id).counts.queued, 60)
    first = time.perf_counter()
    until(lambda: client.batches.get(batch.id).ingested, 300)
    ended = time.perf_counter()
    memory_queued = int(redis.info("memory")["used_memory"])
    row("accepted (202)", f"{accepted - began:.2f} s")
    row("first rows on their lane", f"{first - began:.2f} s")
    row("all rows on their lane (target 20 s)", f"{ended - began:.1f} s", f"{rows / (ended - accepted):.0f} rows/s")
    queued_bytes = (memory_queued - memory_before) / rows
    row("Redis, a queued job", f"{queued_bytes:.0f} bytes")
    finished_bytes = _finished_job_bytes(bench, batch.id, queued_bytes)
    row("Redis, a finished job (target 1,500)", f"{finished_bytes:.0f} bytes")

    row("read", _timed(lambda: client.batches.get(batch.id)))
    row("list", _timed(lambda: list(client.batches.list(limit=10))))
    row("list its jobs", _timed(lambda: list(client.jobs(batch_id=batch.id, limit=50))))
    row("pause", _timed(lambda: client.batches.pause(batch.id)))
    row("resume", _timed(lambda: client.batches.resume(batch.id)))
    body = io.BytesIO()
    row("results as JSONL", _timed(lambda: client.batches.write(batch.id, "results", body)), _megabytes(body))
    body = io.BytesIO()
    row("results as CSV", _timed(lambda: client.batches.write(batch.id, "results", body, form="csv")), _megabytes(body))
    row("cancel", _timed(lambda: client.batches.cancel(batch.id)))
    began = time.perf_counter()
    until(lambda: not redis.hexists(bench.domain.keys.batch(batch.id), "sweep"), 300)
    row("all records of its jobs are canceled", f"{time.perf_counter() - began:.1f} s")
    until(lambda: client.batches.get(batch.id).results, 300)
    row("its results are in the bucket", f"{time.perf_counter() - began:.1f} s")
    row("retry all canceled", _timed(lambda: client.batches.retry(batch.id, ["canceled"])))
    began = time.perf_counter()
    until(lambda: not client.batches.get(batch.id).retrying, 300)
    row("all on their lane again", f"{time.perf_counter() - began:.1f} s")
    row("peak memory of the API (target 300 MB)", f"{_peak_mb(api):.0f} MB")
    row("peak memory of the worker (target 300 MB)", f"{_peak_mb(worker):.0f} MB")


def _finished_job_bytes(bench: Bench, batch_id: str, queued_bytes: float) -> float:
    """Redis memory of a finished job, with its share of the indexes; ``queued_bytes`` is that of a queued job."""
    domain = bench.domain
    domain.planner.renew("bench", slots=SAMPLE, worker_info="{}", held=[])
    keys = [domain.keys.job(batch_job_id(batch_id, number)) for number in range(1, SAMPLE + 1)]
    before = sum(_memory_usage(bench, key) for key in keys) / SAMPLE
    remaining = SAMPLE
    while remaining > 0:
        started = domain.planner.plan(limit=min(100, remaining)).dispatches
        for dispatch in started:
            claim = domain.planner.claim(dispatch.job_id, dispatch.attempt, "bench")
            if claim is not None:
                _finish(bench, claim)
        remaining -= len(started)
    domain.planner.depart("bench", gone=True)
    after = sum(_memory_usage(bench, key) for key in keys) / SAMPLE
    return queued_bytes - before + after


def _finish(bench: Bench, claim: Claim) -> None:
    source = Input(
        image=claim.input.image, sha256="a" * 64, bytes=512_000, media_type="image/jpeg", width=1024, height=1024
    )
    claim = replace(claim, input=source)
    now = datetime.now(UTC)
    answer = Checkpoint(kind="url", url="https://results.example.com/" + "x" * 80, at=now, attempt=claim.attempt)
    bench.domain.planner.checkpoint(claim, answer, cost_micro_usd=3000)
    output = Output(
        bucket=bench.domain.bucket.name,
        key=f"outputs/{claim.job_id[4:30]}/{claim.spec.custom_id}.png",
        sha256="b" * 64,
        bytes=1_024_000,
        media_type="image/png",
        width=1024,
        height=1024,
        seed=claim.spec.seed,
    )
    settlement = Settlement.succeeded(output, signal=OK, trace_id="0123456789abcdef0123456789abcdef")
    bench.domain.planner.settle(claim, settlement, finished_at=now)


def _memory_usage(bench: Bench, key: str) -> int:
    answer: Any = bench.domain.redis.memory_usage(key, samples=0)
    return int(answer)


def _timed(command: Callable[[], object]) -> str:
    began = time.perf_counter()
    command()
    duration_s = time.perf_counter() - began
    return f"{duration_s * 1000:.0f} ms" if duration_s < 1 else f"{duration_s:.1f} s"


def _megabytes(body: io.BytesIO) -> str:
    return f"{body.tell() / 1e6:.1f} MB"


def _peak_mb(process: Process) -> float:
    """Peak memory of a process in MB (VmHWM of proc(5))."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
