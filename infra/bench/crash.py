"""kill -9 of a worker with 100 edits in flight and the default lease: time to finish and billed calls.

All jobs must be finished within 45 s after another worker is ready, and no edit may be billed more than twice.

    python -m infra.bench.crash [--jobs 100] [--latency-ms 3000]
"""

import argparse
import time
from collections import Counter

import httpx

from infra.bench.limit import fill
from infra.bench.workbench import TENANT, Bench, open_bench, photograph, row, until
from jobs.foundation.job_states import FINAL, State

MAX_S = 45


def main() -> None:
    """Print the table; exit status 1 if a limit was exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--latency-ms", type=int, default=3000)
    options = parser.parse_args()
    limits = {"concurrency": options.jobs, "rpm": 60_000}
    with open_bench(limits=limits, fast=True, output_format="jpeg", latency_ms=options.latency_ms) as bench:
        victim = bench.worker(concurrency=options.jobs)
        fill(bench, photograph(), options.jobs)
        bench.domain.edit_loop.dispatch()
        until(lambda: _calls(bench)["calls"] >= options.jobs, timeout_s=60)
        victim.kill()
        bench.worker(concurrency=options.jobs)
        began = time.monotonic()
        until(lambda: _finished(bench) == options.jobs, timeout_s=300)
        duration_s = time.monotonic() - began
        calls = httpx.get(f"{bench.simulator}/_sim/calls").json()["data"]
        billed = Counter(Counter(call["prompt"] for call in calls if call["billed"]).values())
        succeeded = bench.domain.stats.tenant(TENANT).jobs[State.SUCCEEDED]
    row("", "succeeded", "billed once", "billed twice", "more often", "finished after s")
    row(f"{options.jobs} in flight at the kill", succeeded, billed[1], billed[2],
        sum(n for times, n in billed.items() if times > 2), f"{duration_s:.1f}")  # fmt: skip
    raise SystemExit(0 if duration_s <= MAX_S and max(billed) <= 2 and succeeded == options.jobs else 1)


def _calls(bench: Bench) -> dict[str, int]:
    return dict(httpx.get(f"{bench.simulator}/_sim/calls", params={"summary": "1"}).json())


def _finished(bench: Bench) -> int:
    jobs = bench.domain.stats.tenant(TENANT).jobs
    return sum(jobs[state] for state in FINAL)


if __name__ == "__main__":
    main()
