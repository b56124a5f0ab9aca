"""Fair share: 20,000 jobs of tenant A wait, and B submits one a second. Compares B's wait with an idle system.

python -m infra.bench.fairness [--backlog 20000] [--singles 40]
"""

import argparse
import time

from infra.bench.limit import fill
from infra.bench.workbench import Bench, median_and_p95, open_bench, photograph, row
from infra.local.harness import MODEL
from jobs.foundation.ids import new_job_id
from jobs.foundation.job_states import FINAL
from jobs.plan.records import Draft
from jobs.records.job_models import Input, JobSpec

LATENCY_MS = 1000
OTHER = "other"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--backlog", type=int, default=20_000)
    parser.add_argument("--singles", type=int, default=40)
    options = parser.parse_args()
    limits = {"concurrency": 30, "rpm": 0}
    print(f"one job a second of tenant B, {LATENCY_MS} ms latency, 30 in flight")  # noqa: T201
    row("", "median ms", "p95 ms", "x latency")
    for name, backlog in (("idle system", 0), (f"{options.backlog:,} jobs of A queued", options.backlog)):
        with open_bench(limits=limits, fast=True, output_format="jpeg", latency_ms=LATENCY_MS) as bench:
            bench.domain.tenants.ensure(OTHER)
            # Skip the discovery of the window; another benchmark measures it.
            bench.domain.redis.hset(bench.domain.keys.model(MODEL), "limit", 30)
            fill(bench, photograph(), max(1, backlog))
            bench.worker(concurrency=40)
            time.sleep(3)
            waits = _singles(bench, options.singles)
            median, p95 = median_and_p95(waits)
            row(name, f"{median:.0f}", f"{p95:.0f}", f"{median / LATENCY_MS:.2f}")


def _singles(bench: Bench, number: int) -> list[float]:
    """Milliseconds from submit to finish of each job."""
    domain = bench.domain
    address = f"s3://{domain.settings.s3_bucket}/in/picture.jpg"
    submitted: dict[str, float] = {}
    for n in range(number):
        spec = JobSpec(image=address, prompt=f"B {n}", model=MODEL, seed=n)
        draft = Draft(new_job_id(), spec, Input(image=address))
        submitted[draft.job_id] = time.time()
        domain.planner.submit([draft], tenant=OTHER)
        domain.edit_loop.dispatch()
        time.sleep(1)
    waits = []
    for job_id, began in submitted.items():
        key = domain.keys.job(job_id)
        while str(domain.redis.hget(key, "state")) not in FINAL:
            time.sleep(0.1)
        finished = domain.job_reader.get(OTHER, job_id).finished_at
        if finished is not None:
            waits.append(1000 * (finished.timestamp() - began))
    return waits


if __name__ == "__main__":
    main()
