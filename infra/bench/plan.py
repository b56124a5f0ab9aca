"""The plan alone: submit, plan, claim and settle on one Valkey core; many lanes, a deep backlog, memory a job.

Driver processes send what a fleet would send: each submits to lanes of its own in chunks, plans 100 at a time, and
claims and settles in pipelines. Drivers in Python are slower than the scripts: it takes several to keep Valkey busy,
and on two cores they share the one that it leaves. So two figures count: jobs a second by the clock, and of Valkey's
CPU time, by which a fleet on other machines would be limited. Append-only persistence is on, with fsync always, as in
the embedded stack. The deep backlog is compared with a shallow one in the same run.

    python -m infra.bench.plan [--jobs 40000] [--deep 1000000] [--drivers 4]
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from redis import Redis
from redis.commands.core import Script

from infra.bench.workbench import row
from infra.local.embedded_servers import Valkey
from infra.local.harness import cpu_s
from jobs.catalogue.catalogue import Catalogue, load_catalogue
from jobs.foundation.ids import batch_job_id, new_batch_id
from jobs.foundation.redis_keys import Keys
from jobs.foundation.secret_box import Seal
from jobs.plan import lua_loader
from jobs.plan.planner import Planner
from jobs.plan.records import Dispatch, Draft
from jobs.plan.script_runner import ScriptRunner
from jobs.records.job_models import Input, JobSpec
from jobs.tenants.tenants import Tenants

CHUNK = 500
LANES, SHALLOW = (1, 100, 1000), 1000
ROWS_OF_A_DRIVER = 2_000_000
RETENTION_MS, LEASE_MS = 86_400_000, 30_000
OUTPUT = {"bucket": "retouch", "key": "outputs/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV/sku-00000001.png", "sha256": "0" * 64,
    "bytes": 512_000, "media_type": "image/png", "width": 1024, "height": 1024, "seed": 1}  # fmt: skip
SETTLEMENT = json.dumps(
    {
        "to": "succeeded",
        "outcome": "succeeded",
        "drop": ["checkpoint"],
        "delay_ms": 0,
        "cost": 0,
        "count": True,
        "reused": False,
        "entry": None,
        "signal": {"kind": "ok"},
    }
)
"""What a worker says of a job that succeeded, with the line of its log and what is set."""
LOG = json.dumps({"number": 1, "outcome": "succeeded", "trace_id": "0" * 32})
IMAGE = "https://images.example.com/catalogue/2026/winter/product-{:08d}.jpg"


class Plan:
    """One plan on one Valkey, with as many lanes as tenants' batches."""

    def __init__(self, valkey: Valkey, prefix: str, lanes: int) -> None:
        spec = load_catalogue().get(None)
        self.model = spec.model_copy(update={"concurrency": 100_000, "rpm": 0.0})
        self.url = valkey.url
        self.keys = Keys(prefix)
        self.connect()
        self.planner.register_models()
        self.redis.hset(self.keys.model(self.model.name), "limit", 100_000)
        self.batches = [(f"tenant{n % 50}", new_batch_id()) for n in range(lanes)]
        self.rows = [0] * lanes
        for tenant, batch in self.batches:
            Tenants(self.redis, self.keys, Seal(None)).ensure(tenant)
            self.redis.hset(
                self.keys.batch(batch), mapping={"defaults": json.dumps({"prompt": "soft studio background"})}
            )

    def connect(self) -> None:
        """Connect, as each process must do for itself."""
        self.redis = Redis.from_url(self.url, decode_responses=True)
        runner = ScriptRunner(self.redis, self.keys, retention_s=86400)
        self.planner = Planner(self.redis, self.keys, Catalogue([self.model], self.model.name), runner)
        self.claim = lua_loader.load(self.redis, "jobs/claim")
        self.end = lua_loader.load(self.redis, "jobs/settle")

    def submit(self, jobs: int) -> None:
        """Jobs spread evenly over the lanes, a chunk a call."""
        lanes = len(self.batches)
        for lane in range(lanes):
            share = jobs // lanes + (lane < jobs % lanes)
            for size in _chunks(share):
                self._submit_chunk(lane, size)

    def _submit_chunk(self, lane: int, size: int) -> None:
        tenant, batch = self.batches[lane]
        drafts = []
        for _ in range(size):
            self.rows[lane] += 1
            image = IMAGE.format(self.rows[lane])
            spec = JobSpec(
                model=self.model.name, image=image, custom_id=f"sku-{self.rows[lane]:08d}", seed=self.rows[lane]
            )
            drafts.append(Draft(batch_job_id(batch, self.rows[lane]), spec, Input(image=image)))
        self.planner.submit(drafts, tenant=tenant)

    def run(self, jobs: int) -> None:
        """Plan, claim and settle so many jobs."""
        self.planner.renew("bench", slots=100_000, worker_info="{}", held=[])
        done = 0
        while done < jobs:
            started = self.planner.plan(limit=min(100, jobs - done)).dispatches
            self._claim(started)
            self._settle(started)
            done += len(started)

    def _claim(self, started: list[Dispatch]) -> None:
        self._send(self.claim, [(one, [one.attempt, "bench", "token"]) for one in started])

    def _settle(self, started: list[Dispatch]) -> None:
        self._send(self.end, [(one, [one.attempt, SETTLEMENT, LOG, "output", json.dumps(OUTPUT)]) for one in started])

    def _send(self, script: Script, calls: list[tuple[Dispatch, list[Any]]]) -> None:
        """What the planner sends, a pipeline at a time: one driver for a fleet of workers."""
        pipe = self.redis.pipeline(transaction=False)
        for one, arguments in calls:
            job = self.keys.job(one.job_id)
            keys = [*self.keys.spine, job, job]
            script(keys=keys, args=[0, RETENTION_MS, LEASE_MS, *arguments], client=pipe)
        pipe.execute()


def _drive(plan: Plan, number: int, drivers: int, jobs: int, submitted: Barrier) -> None:
    """One driver's part: its lanes are its own, where there are enough, and its rows in any case."""
    plan.connect()
    first = number - 1
    plan.batches = plan.batches[first::drivers] or plan.batches
    plan.rows = [row + number * ROWS_OF_A_DRIVER for row in plan.rows[first::drivers] or plan.rows]
    plan.submit(jobs)
    submitted.wait()
    submitted.wait()
    plan.run(jobs)


def _chunks(number: int) -> Iterator[int]:
    while number > 0:
        yield min(CHUNK, number)
        number -= CHUNK


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=40_000)
    parser.add_argument("--deep", type=int, default=1_000_000)
    parser.add_argument("--drivers", type=int, default=4)
    options = parser.parse_args()
    os.environ.pop("RETOUCH_CONFIG", None)
    print("the plan alone: jobs a second, and microseconds of Valkey's CPU a job")  # noqa: T201
    row("", "jobs/s, by the clock", "jobs/s of Valkey", "submit µs", "plan+… µs", "bytes a job")
    with tempfile.TemporaryDirectory(prefix="retouch-bench-") as folder, Valkey(Path(folder)) as valkey:
        for number, lanes in enumerate(LANES):
            _case(valkey, f"b{number}:", lanes, SHALLOW, options)
        _case(valkey, "deep:", 100, options.deep, options, rewriting=True)


def _case(
    valkey: Valkey, prefix: str, lanes: int, backlog: int, options: argparse.Namespace, *, rewriting: bool = False
) -> None:
    """One row; with `rewriting` a second one, of the same while the append-only file is rewritten."""
    plan = Plan(valkey, prefix, lanes)
    before = _memory(plan.redis)
    plan.submit(backlog)
    grown = (_memory(plan.redis) - before) / backlog
    # A rewrite copies each page that is touched meanwhile. It comes once in as many jobs as fill the file again.
    _until_written(plan.redis)
    plan.redis.config_set("auto-aof-rewrite-percentage", 0)
    name = f"{lanes} lanes, {backlog:,} queued before"
    _measure(plan, valkey, name, options, f"{grown:.0f}" if backlog > SHALLOW else "")
    if rewriting:
        plan.redis.bgrewriteaof()
        _measure(plan, valkey, "… while the file is rewritten", options, "")
        _until_written(plan.redis)
    plan.redis.config_set("auto-aof-rewrite-percentage", 100)
    plan.redis.flushdb()


def _measure(plan: Plan, valkey: Valkey, name: str, options: argparse.Namespace, memory: str) -> None:
    fork = multiprocessing.get_context("fork")
    submitted = fork.Barrier(options.drivers + 1)
    part = options.jobs // options.drivers
    jobs = part * options.drivers
    drivers = [
        fork.Process(target=_drive, args=(plan, n, options.drivers, part, submitted))
        for n in range(1, options.drivers + 1)
    ]
    began, used = time.perf_counter(), cpu_s(valkey.pid)
    for driver in drivers:
        driver.start()
    submitted.wait()
    submit_cpu = cpu_s(valkey.pid)
    submitted.wait()
    for driver in drivers:
        driver.join()
    ended, run_cpu = time.perf_counter(), cpu_s(valkey.pid)
    if any(driver.exitcode for driver in drivers):
        raise SystemExit("a driver failed")
    # The next measurement's rows come after these.
    plan.rows = [row + (options.drivers + 1) * ROWS_OF_A_DRIVER for row in plan.rows]
    row(
        name,
        f"{jobs / (ended - began):.0f}",
        f"{jobs / (run_cpu - used):.0f}",
        f"{1e6 * (submit_cpu - used) / jobs:.0f}",
        f"{1e6 * (run_cpu - submit_cpu) / jobs:.0f}",
        memory,
    )


def _until_written(redis: Redis) -> None:
    """Wait for a rewrite of the append-only file."""
    while redis.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.5)


def _memory(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


if __name__ == "__main__":
    main()
