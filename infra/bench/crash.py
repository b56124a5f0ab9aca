"""kill -9 of a worker with 100 edits in flight, with the lease a service has: when all are done, and what was bought.

Everything must be done within 45 s of the moment another worker is there, and no edit be bought more than twice.

    python -m infra.bench.crash [--jobs 100] [--latency-ms 3000]
"""

import argparse
import time
from collections import Counter

import httpx

from infra.bench.limit import fill
from infra.bench.workbench import TENANT, Bench, bench, photograph, row, until
from jobs.foundation.job_states import FINAL, State

LONGEST_S = 45


def main() -> None:
    """Print the table; exit status 1 where it took too long or bought too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--latency-ms", type=int, default=3000)
    options = parser.parse_args()
    limits = {"concurrency": options.jobs, "rpm": 60_000}
    with bench(limits=limits, fast=True, output_format="jpeg", latency_ms=options.latency_ms) as stand:
        victim = stand.worker(concurrency=options.jobs)
        fill(stand, photograph(), options.jobs)
        stand.domain.edit_loop.dispatch()
        until(lambda: _calls(stand)["calls"] >= options.jobs, timeout_s=60)
        victim.kill()
        stand.worker(concurrency=options.jobs)
        began = time.monotonic()
        until(lambda: _ended(stand) == options.jobs, timeout_s=300)
        took = time.monotonic() - began
        calls = httpx.get(f"{stand.simulator}/_sim/calls").json()["data"]
        bought = Counter(Counter(call["prompt"] for call in calls if call["billed"]).values())
        succeeded = stand.domain.stats.tenant(TENANT).jobs[State.SUCCEEDED]
    row("", "succeeded", "bought once", "bought twice", "more often", "all done after s")
    row(f"{options.jobs} in flight when it was killed", succeeded, bought[1], bought[2],
        sum(n for times, n in bought.items() if times > 2), f"{took:.1f}")  # fmt: skip
    raise SystemExit(0 if took <= LONGEST_S and max(bought) <= 2 and succeeded == options.jobs else 1)


def _calls(stand: Bench) -> dict[str, int]:
    return dict(httpx.get(f"{stand.simulator}/_sim/calls", params={"summary": "1"}).json())


def _ended(stand: Bench) -> int:
    jobs = stand.domain.stats.tenant(TENANT).jobs
    return sum(jobs[state] for state in FINAL)


if __name__ == "__main__":
    main()
