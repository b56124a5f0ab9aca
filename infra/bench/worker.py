"""One worker process: jobs a second and CPU time a job at 0 ms provider latency, and the overhead of a single job.

The comparison in the same run is a bare loop in one thread: it posts the same picture to the simulator, fetches the
result and puts it into the same bucket, without a queue, a plan or checks.

    python -m infra.bench.worker [--jobs 40] [--rounds 3]
"""

import argparse
import hashlib
import statistics
import time

import httpx

from infra.bench.workbench import TENANT, Bench, median_and_p95, open_bench, photograph, row
from infra.local.harness import KEY, MODEL
from jobs.foundation.job_states import FINAL
from jobs.records.job_models import JobRequest

SINGLES = 20


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8])
    options = parser.parse_args()
    picture = photograph()
    for concurrency in options.concurrency:
        with open_bench(fast=True, output_format="jpeg") as bench:
            bench.worker(concurrency=concurrency)
            print(f"one worker process, {concurrency} threads, {len(picture) / 1e6:.2f} MB pictures, 0 ms latency")  # noqa: T201
            _throughput(bench, picture, options.jobs, options.rounds)
            _overhead(bench, picture)


def _throughput(bench: Bench, picture: bytes, jobs: int, rounds: int) -> None:
    bare_runs, retouch_s = [], []
    cpu: dict[str, float] = {}
    _run(bench, picture, jobs)
    for _ in range(rounds):
        bare_runs.append(_bare(bench, picture, jobs))
        before = bench.cpu()
        retouch_s.append(_run(bench, picture, jobs))
        for part, used in bench.cpu().items():
            cpu[part] = cpu.get(part, 0.0) + used - before[part]
    row("", "jobs/s", "CPU ms/job")
    row("bare: post, get, put in one thread", f"{jobs / statistics.median(s for s, _ in bare_runs):.1f}",
        f"{1000 * statistics.median(c for _, c in bare_runs) / jobs:.1f}")  # fmt: skip
    row("Retouch, from first submit to last finish", f"{jobs / statistics.median(retouch_s):.1f}")
    for part, used in cpu.items():
        name = {"bench": "submitting, in this process"}.get(part, part)
        row(f"  {name}", "", f"{1000 * used / (jobs * rounds):.1f}")


def _bare(bench: Bench, picture: bytes, jobs: int) -> tuple[float, float]:
    """Seconds, and CPU seconds of this process, for the same edits in a bare loop."""
    bucket = bench.domain.settings.s3_bucket
    began, used = time.perf_counter(), time.process_time()
    with httpx.Client(timeout=30) as client:
        for number in range(jobs):
            answer = client.post(
                f"{bench.simulator}/v1/images/edits",
                headers={"Authorization": f"Bearer {KEY}"},
                data={"model": MODEL, "prompt": "bare"},
                files={"image": ("input.jpg", picture, "image/jpeg")},
            )
            result = client.get(answer.json()["data"][0]["url"]).content
            bench.domain.bucket.put(bucket, f"bare/{number}.jpg", result, media_type="image/jpeg")
    return time.perf_counter() - began, time.process_time() - used


def _run(bench: Bench, picture: bytes, jobs: int) -> float:
    """Seconds from the first submit to the last finished job."""
    began = time.perf_counter()
    ids = [_submit(bench, picture) for _ in range(jobs)]
    for job_id in ids:
        _wait_until_finished(bench, job_id)
    return time.perf_counter() - began


def _overhead(bench: Bench, picture: bytes) -> None:
    """Print the latency of single jobs from the 202 to the finish, and that of the provider's call alone."""
    whole, provider = [], []
    for _ in range(SINGLES):
        job_id = _submit(bench, picture)
        began = time.perf_counter()
        _wait_until_finished(bench, job_id)
        whole.append(1000 * (time.perf_counter() - began))
    for _ in range(SINGLES):
        began = time.perf_counter()
        with httpx.Client(timeout=30) as client:
            client.post(
                f"{bench.simulator}/v1/images/edits",
                headers={"Authorization": f"Bearer {KEY}"},
                data={"model": MODEL, "prompt": "alone"},
                files={"image": ("input.jpg", picture, "image/jpeg")},
            )
        provider.append(1000 * (time.perf_counter() - began))
    row("one job at a time", "median ms", "p95 ms")
    row("  from 202 to the finished job", *(f"{value:.0f}" for value in median_and_p95(whole)))
    row("  the provider's call alone", *(f"{value:.0f}" for value in median_and_p95(provider)))
    row("  overhead", f"{statistics.median(whole) - statistics.median(provider):.0f}")


def _submit(bench: Bench, picture: bytes) -> str:
    # Each prompt is different, so that no result is reused.
    prompt = hashlib.sha256(str(time.perf_counter_ns()).encode()).hexdigest()[:16]
    return bench.domain.job_submission.submit(JobRequest(prompt=prompt), tenant=TENANT, upload=picture).job.id


def _wait_until_finished(bench: Bench, job_id: str) -> None:
    """Wait for the message that the settle script publishes."""
    domain = bench.domain
    key = domain.keys.job(job_id)
    with domain.redis.pubsub() as notices:  # type: ignore[no-untyped-call]
        notices.subscribe(domain.keys.final_channel(job_id))
        while str(domain.redis.hget(key, "state")) not in FINAL:
            notices.get_message(ignore_subscribe_messages=True, timeout=1)


if __name__ == "__main__":
    main()
