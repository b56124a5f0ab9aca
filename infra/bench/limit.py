"""Use of an account's limit: how much of the permitted rate the fleet reaches, and how many calls are refused.

The simulator has the limits of tier V4 (130 in flight, 2,600 starts a minute), 2 s latency and pictures of 0.5 MB. In
the mode `configured` Retouch knows the limits; in the mode `discovered` it does not (`rpm = 0`, `concurrency = 1000`)
and the plan must discover them. The accepted rate is compared with the rate that the simulator permits.

    python -m infra.bench.limit [--measure 120] [--warm-up 75] [--mode configured|discovered]
"""

import argparse
import time

import httpx

from infra.bench.workbench import TENANT, Bench, open_bench, photograph, row
from infra.local.harness import MODEL
from jobs.foundation.ids import new_job_id
from jobs.plan.records import Draft
from jobs.records.job_models import Input, JobSpec

CONCURRENCY, RPM, LATENCY_MS = 130, 2600, 2000
CHUNK = 500
MODES = {
    "configured": {"concurrency": CONCURRENCY, "rpm": RPM},
    "discovered": {"concurrency": 1000, "rpm": 0},
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--measure", type=float, default=120, help="seconds")
    parser.add_argument("--warm-up", type=float, default=75, help="seconds; the limit applies to a sliding minute")
    parser.add_argument("--mode", choices=MODES, nargs="+", default=list(MODES))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=160)
    options = parser.parse_args()
    picture = photograph()
    print(f"limits of {CONCURRENCY} in flight and {RPM} a minute, {LATENCY_MS} ms latency")  # noqa: T201
    row("", "% of permitted", "% refused", "window", "pace", "in flight")
    for mode in options.mode:
        with open_bench(
            limits=MODES[mode],
            fast=True,
            output_format="jpeg",
            latency_ms=LATENCY_MS,
            rpm=RPM,
            concurrency=CONCURRENCY,
        ) as bench:
            fill(bench, picture, int((options.measure + options.warm_up) * RPM / 60 * 1.3))
            for _ in range(options.workers):
                bench.worker(concurrency=options.threads)
            time.sleep(options.warm_up)
            _measure(bench, mode, options.measure)


def fill(bench: Bench, picture: bytes, jobs: int) -> None:
    """Submit a number of jobs; every job reads the same picture from the bucket."""
    bucket = bench.domain.settings.s3_bucket
    bench.domain.bucket.put(bucket, "in/picture.jpg", picture, media_type="image/jpeg")
    address = f"s3://{bucket}/in/picture.jpg"
    for begin in range(0, jobs, CHUNK):
        drafts = [
            Draft(new_job_id(), JobSpec(image=address, prompt=f"job {n}", model=MODEL, seed=n), Input(image=address))
            for n in range(begin, min(begin + CHUNK, jobs))
        ]
        bench.domain.planner.submit(drafts, tenant=TENANT)


def _measure(bench: Bench, mode: str, seconds: float) -> None:
    before, cpu_before = _calls(bench), bench.cpu()
    began = time.perf_counter()
    time.sleep(seconds)
    after, cpu_after = _calls(bench), bench.cpu()
    elapsed_s = time.perf_counter() - began
    accepted = after["accepted"] - before["accepted"]
    calls = after["calls"] - before["calls"]
    model = bench.domain.status.models()[0]
    row(
        mode,
        f"{100 * accepted / (RPM / 60 * elapsed_s):.1f}",
        f"{100 * (calls - accepted) / max(1, calls):.2f}",
        model.window,
        model.pace_rpm,
        model.in_flight,
    )
    for part, value in cpu_after.items():
        row(f"  {part}, CPU ms a job", f"{1000 * (value - cpu_before[part]) / max(1, accepted):.1f}")
    row("  memory of a worker, MB", *(f"{process.rss_mb():.0f}" for process in bench.workers))


def _calls(bench: Bench) -> dict[str, int]:
    summary: dict[str, int] = httpx.get(f"{bench.simulator}/_sim/calls", params={"summary": "1"}, timeout=30).json()
    return summary


if __name__ == "__main__":
    main()
