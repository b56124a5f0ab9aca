"""What being watched costs: CPU time of an edit with metrics and task events and without, in turns in the same run.

Two workers on the same servers, each with a plan of its own: one that serves metrics and tells Flower, which runs, of
every task, and one that does neither. Their rounds alternate, so that a noisy neighbour hits both. Meanwhile the API of
the first is scraped four times a second; afterwards that of a fleet with many lanes, under the same load.

Exit status 1 where being watched adds a twentieth or more to an edit's CPU time, or where the median scrape under load
takes 50 ms or more, of either fleet.

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

from infra.bench.workbench import TENANT, Bench, bench, median_and_p95, photograph, row, until
from infra.local.harness import MODEL, Process, api_process, environment_of, worker_process
from infra.local.ports import Ports
from jobs.foundation.ids import new_job_id
from jobs.foundation.job_states import FINAL
from jobs.plan.records import Draft
from jobs.records.job_models import Input, JobSpec
from jobs.wiring import Domain

SCRAPE_EVERY_S = 0.25
MOST_PART = 0.05
MOST_SCRAPE_MS = 50.0


def main() -> None:
    """Print the tables; exit status 1 where being watched costs too much or a scrape takes too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--kilobytes", type=int, default=500)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--lanes", type=int, default=1000)
    options = parser.parse_args()
    picture = photograph(options.kilobytes)
    with bench(fast=True, output_format="jpeg") as stand:
        stand.domain.bucket.put(stand.domain.settings.s3_bucket, "in.jpg", picture, media_type="image/jpeg")
        with (
            _side(stand, "watched", options.threads, RETOUCH_METRICS_PORT="0") as (watched, worker),
            _side(stand, "alone", options.threads, RETOUCH_TASK_EVENTS="false") as (alone, other),
            _flower(stand, watched) as flower,
            _api(stand, watched) as url,
        ):
            used: dict[str, list[float]] = {"watched": [], "alone": []}
            flower_used, scrapes = [], []
            for number in range(options.rounds + 1):
                turns = (("watched", watched, worker), ("alone", alone, other))
                for name, domain, process in turns[:: 1 if number % 2 else -1]:
                    before, seen = process.cpu_s(), flower.cpu_s()
                    with _scraped(url) as times:
                        _run(domain, options.jobs)
                    if number:  # the first round warms both up
                        used[name].append(1000 * (process.cpu_s() - before) / options.jobs)
                        if name == "watched":
                            flower_used.append(1000 * (flower.cpu_s() - seen) / options.jobs)
                            scrapes += times
            with _many_lanes(stand, options.lanes) as lanes, _scraped(lanes) as lane_scrapes:
                _run(watched, 3 * options.jobs)
        part = _tell(used, flower_used, scrapes, len(picture), options)
        title = f"  the same of a fleet with {options.lanes:,} lanes, ms"
        row(title, *(f"{value:.1f}" for value in median_and_p95(lane_scrapes)))
    raise SystemExit(0 if is_cheap(part, scrapes, lane_scrapes) else 1)


def is_cheap(part: float, *scrapes: list[float]) -> bool:
    """Whether being watched costs as little as is promised.

    Args:
        part: of an edit's CPU time that being watched adds.
        scrapes: of each fleet, in ms; one that nothing was scraped of fails.
    """
    return part < MOST_PART and all(times and statistics.median(times) < MOST_SCRAPE_MS for times in scrapes)


def _tell(
    used: dict[str, list[float]], flower: list[float], scrapes: list[float], size: int, options: argparse.Namespace
) -> float:
    watched, alone = statistics.median(used["watched"]), statistics.median(used["alone"])
    part = watched / alone - 1
    print(f"{options.rounds} rounds of {options.jobs} edits each, {size / 1e6:.2f} MB, {options.threads} threads")  # noqa: T201
    row("worker, CPU ms an edit", "median", "least", "most")
    for name, title in (("watched", "with metrics and events"), ("alone", "without")):
        row(
            f"  {title}",
            *(f"{value:.2f}" for value in (statistics.median(used[name]), min(used[name]), max(used[name]))),
        )
    row("  what being watched adds", f"{part:+.1%}")
    row("Flower itself, CPU ms an edit", f"{statistics.median(flower):.2f}")
    row("scrape of the API under this load, ms", *(f"{value:.1f}" for value in median_and_p95(scrapes)))
    return part


@contextmanager
def _side(stand: Bench, name: str, threads: int, **environment: str) -> Iterator[tuple[Domain, Process]]:
    settings = stand.domain.settings.model_copy(update={"key_prefix": f"{name}:"})
    with closing(Domain.open(settings)) as domain:
        domain.planner.register_models()
        domain.tenants.ensure(TENANT)
        known_as = f"{name}@bench"
        process = worker_process(
            settings,
            stand.directory / f"{name}.log",
            known_as,
            queues="edits",
            concurrency=threads,
            grace_s=10,
            **{"RETOUCH_LOG_LEVEL": "INFO", **environment},
        )
        try:
            process.wait_until(lambda: any(worker.name == known_as for worker in domain.status.workers()))
            yield domain, process
        finally:
            process.close()


@contextmanager
def _flower(stand: Bench, domain: Domain) -> Iterator[Process]:
    port = Ports().choose("flower")
    environment = environment_of(domain.settings, FLOWER_BASIC_AUTH="bench:bench")
    command = [sys.executable, "-m", "retouch", "flower", "--port", str(port)]
    process = Process(command, stand.directory / "flower.log", environment)
    try:
        process.wait_until(lambda: _answers(f"http://127.0.0.1:{port}/healthcheck"))
        yield process
    finally:
        process.close()


@contextmanager
def _api(stand: Bench, domain: Domain) -> Iterator[str]:
    port = Ports().choose("api")
    process = api_process(domain.settings, stand.directory / "api.log", port)
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
    """Scrapes while the block runs; milliseconds of each."""
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
    """Edit so many pictures, from the first submit to the last end."""
    before = sum(domain.stats.tenant(TENANT).jobs[state] for state in FINAL)
    domain.planner.submit([_draft(domain) for _ in range(jobs)], tenant=TENANT)
    domain.edit_loop.dispatch()
    until(lambda: sum(domain.stats.tenant(TENANT).jobs[state] for state in FINAL) - before >= jobs, timeout_s=300)


def _draft(domain: Domain) -> Draft:
    image = f"s3://{domain.settings.s3_bucket}/in.jpg"
    spec = JobSpec(model=MODEL, prompt=token_hex(8), image=image, seed=1)
    return Draft(new_job_id(), spec, Input(image=image))


@contextmanager
def _many_lanes(stand: Bench, lanes: int) -> Iterator[str]:
    """Where to scrape a fleet in which every lane has something queued."""
    with closing(Domain.open(stand.domain.settings.model_copy(update={"key_prefix": "lanes:"}))) as domain:
        domain.planner.register_models()
        for number in range(lanes):
            domain.tenants.ensure(f"t{number}")
            domain.planner.submit([_draft(domain)], tenant=f"t{number}")
        with _api(stand, domain) as url:
            yield url


if __name__ == "__main__":
    main()
