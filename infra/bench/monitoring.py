"""The cost of monitoring: CPU time of an edit with and without metrics and task events.

Two workers run on the same servers, each with a separate plan: the monitored worker serves metrics and sends task
events to a running Flower, the other does neither. Their rounds alternate, so that a noisy neighbour affects both. The
API of the monitored fleet is scraped four times a second; afterwards the API of a fleet with many lanes, under the same
load.

The exit status is 1 if monitoring adds 5 % or more to an edit's CPU time, or if the median scrape of either fleet takes
50 ms or more.

    python -m infra.bench.monitoring [--jobs 100] [--rounds 6] [--kilobytes 500] [--lanes 1000]
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from secrets import token_hex

import httpx

from infra.bench.workbench import TENANT, Bench, median_and_p95, open_bench, photograph, row, until
from infra.local.harness import MODEL, Process, api_process, environment_of, worker_process
from infra.local.ports import Ports
from jobs.foundation.ids import new_job_id
from jobs.foundation.job_states import FINAL
from jobs.plan.records import Draft
from jobs.records.job_models import Input, JobSpec
from jobs.wiring import Domain

SCRAPE_EVERY_S = 0.25
MAX_PART = 0.05
MAX_SCRAPE_MS = 50.0


def main() -> None:
    """Print the tables; exit status 1 if monitoring costs too much or a scrape takes too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--kilobytes", type=int, default=500)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--lanes", type=int, default=1000)
    options = parser.parse_args()
    picture = photograph(options.kilobytes)
    with open_bench(fast=True, output_format="jpeg") as bench:
        bench.domain.bucket.put(bench.domain.settings.s3_bucket, "in.jpg", picture, media_type="image/jpeg")
        with (
            _fleet(bench, "monitored", options.threads, RETOUCH_METRICS_PORT="0") as (monitored, worker),
            _fleet(bench, "unmonitored", options.threads, RETOUCH_TASK_EVENTS="false") as (unmonitored, other),
            _flower(bench, monitored) as flower,
            _api(bench, monitored) as url,
        ):
            used: dict[str, list[float]] = {"monitored": [], "unmonitored": []}
            flower_used, scrapes = [], []
            for number in range(options.rounds + 1):
                turns = (("monitored", monitored, worker), ("unmonitored", unmonitored, other))
                for name, domain, process in turns[:: 1 if number % 2 else -1]:
                    before, flower_before = process.cpu_s(), flower.cpu_s()
                    with _scraped(url) as times:
                        _run(domain, options.jobs)
                    if number:  # the first round is a warm-up
                        used[name].append(1000 * (process.cpu_s() - before) / options.jobs)
                        if name == "monitored":
                            flower_used.append(1000 * (flower.cpu_s() - flower_before) / options.jobs)
                            scrapes += times
            with _many_lanes(bench, options.lanes) as lanes, _scraped(lanes) as lane_scrapes:
                _run(monitored, 3 * options.jobs)
        part = _report(used, flower_used, scrapes, len(picture), options)
        title = f"  the same of a fleet with {options.lanes:,} lanes, ms"
        row(title, *(f"{value:.1f}" for value in median_and_p95(lane_scrapes)))
    raise SystemExit(0 if is_cheap(part, scrapes, lane_scrapes) else 1)


def is_cheap(part: float, *scrapes: list[float]) -> bool:
    """Whether monitoring stays below the limits.

    Args:
        part: the CPU time that monitoring adds, as a fraction of an edit's CPU time without it.
        scrapes: durations in ms for each fleet; a fleet without scrapes fails.
    """
    return part < MAX_PART and all(times and statistics.median(times) < MAX_SCRAPE_MS for times in scrapes)


def _report(
    used: dict[str, list[float]], flower: list[float], scrapes: list[float], size: int, options: argparse.Namespace
) -> float:
    monitored, unmonitored = statistics.median(used["monitored"]), statistics.median(used["unmonitored"])
    part = monitored / unmonitored - 1
    print(f"{options.rounds} rounds of {options.jobs} edits each, {size / 1e6:.2f} MB, {options.threads} threads")  # noqa: T201
    row("worker, CPU ms an edit", "median", "min", "max")
    for name, title in (("monitored", "with metrics and events"), ("unmonitored", "without")):
        row(
            f"  {title}",
            *(f"{value:.2f}" for value in (statistics.median(used[name]), min(used[name]), max(used[name]))),
        )
    row("  added by monitoring", f"{part:+.1%}")
    row("Flower, CPU ms an edit", f"{statistics.median(flower):.2f}")
    row("scrape of the API under this load, ms", *(f"{value:.1f}" for value in median_and_p95(scrapes)))
    return part


@contextmanager
def _fleet(bench: Bench, name: str, threads: int, **environment: str) -> Iterator[tuple[Domain, Process]]:
    settings = bench.domain.settings.model_copy(update={"key_prefix": f"{name}:"})
    with closing(Domain.open(settings)) as domain:
        domain.planner.register_models()
        domain.tenants.ensure(TENANT)
        worker_name = f"{name}@bench"
        process = worker_process(
            settings,
            bench.directory / f"{name}.log",
            worker_name,
            queues="edits",
            concurrency=threads,
            grace_s=10,
            **{"RETOUCH_LOG_LEVEL": "INFO", **environment},
        )
        try:
            process.wait_until(lambda: any(worker.name == worker_name for worker in domain.status.workers()))
            yield domain, process
        finally:
            process.close()


@contextmanager
def _flower(bench: Bench, domain: Domain) -> Iterator[Process]:
    port = Ports().choose("flower")
    environment = environment_of(domain.settings, FLOWER_BASIC_AUTH="bench:bench")
    command = [sys.executable, "-m", "retouch", "flower", "--port", str(port)]
    process = Process(command, bench.directory / "flower.log", environment)
    try:
        process.wait_until(lambda: _answers(f"http://127.0.0.1:{port}/healthcheck"))
        yield process
    finally:
        process.close()


@contextmanager
def _api(bench: Bench, domain: Domain) -> Iterator[str]:
    port = Ports().choose("api")
    process = api_process(domain.settings, bench.directory / "api.log", port)
    try:
        process.wait_until(lambda: _answers(f"http://127.0.0.1:{port}/livez"))
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        process.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


@contextmanager
def _scraped(url: str) -> Iterator[list[float]]:
    """Scrape while the block runs; the list receives the duration of each scrape in ms."""
    times: list[float] = []
    ended = threading.Event()

    def scrape() -> None:
        with httpx.Client(trust_env=False, timeout=10) as client:
            while not ended.wait(SCRAPE_EVERY_S):
                began = time.perf_counter()
                client.get(url).raise_for_status()
                times.append(1000 * (time.perf_counter() - began))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield times
    finally:
        ended.set()
        thread.join()


def _run(domain: Domain, jobs: int) -> None:
    """Submit jobs and wait until all are finished."""
    before = sum(domain.stats.tenant(TENANT).jobs[state] for state in FINAL)
    domain.planner.submit([_draft(domain) for _ in range(jobs)], tenant=TENANT)
    domain.edit_loop.dispatch()
    until(lambda: sum(domain.stats.tenant(TENANT).jobs[state] for state in FINAL) - before >= jobs, timeout_s=300)


def _draft(domain: Domain) -> Draft:
    image = f"s3://{domain.settings.s3_bucket}/in.jpg"
    spec = JobSpec(model=MODEL, prompt=token_hex(8), image=image, seed=1)
    return Draft(new_job_id(), spec, Input(image=image))


@contextmanager
def _many_lanes(bench: Bench, lanes: int) -> Iterator[str]:
    """Start the API of a fleet in which every lane has a queued job; yields the URL to scrape."""
    with closing(Domain.open(bench.domain.settings.model_copy(update={"key_prefix": "lanes:"}))) as domain:
        domain.planner.register_models()
        for number in range(lanes):
            domain.tenants.ensure(f"t{number}")
            domain.planner.submit([_draft(domain)], tenant=f"t{number}")
        with _api(bench, domain) as url:
            yield url


if __name__ == "__main__":
    main()
