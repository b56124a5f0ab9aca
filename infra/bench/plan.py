"""The plan alone: submit, plan, claim and settle on one Valkey core, with many lanes and with a deep backlog.

Driver processes send the commands of a fleet: each submits to its own lanes in chunks, plans 100 jobs at a time, and
claims and settles in pipelines. Drivers in Python are slower than the scripts: several are needed to keep Valkey busy,
and on two cores they share the other core. Therefore two figures are printed: jobs a second of wall-clock time, and
jobs a second of Valkey's CPU time, which limits a fleet on other machines. Append-only persistence is on, with fsync
always, as in the embedded stack. The deep backlog is compared with a shallow backlog in the same run.

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
from jobs.foundation.secret_box import SecretBox
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
"""The settlement of a succeeded job, as a worker sends it; `LOG` is its attempt log entry, `OUTPUT` a field to set."""
LOG = json.dumps({"number": 1, "outcome": "succeeded", "trace_id": "0" * 32})
IMAGE = "https://images.example.com/catalogue/2026/winter/product-{:08d}.jpg"


class Plan:
    """One plan on one Valkey, with one batch for each lane."""

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
            Tenants(self.redis, self.keys, SecretBox(None)).ensure(tenant)
            self.redis.hset(
                self.keys.batch(batch), mapping={"defaults": json.dumps({"prompt": "soft studio background"})}
            )

    def connect(self) -> None:
        """Connect to Valkey; each process needs its own connection."""
        self.redis = Redis.from_url(self.url, decode_responses=True)
        runner = ScriptRunner(self.redis, self.keys, retention_s=86400)
        self.planner = Planner(self.redis, self.keys, Catalogue([self.model], self.model.name), runner)
        self.claim = lua_loader.load(self.redis, "jobs/claim")
        self.end = lua_loader.load(self.redis, "jobs/settle")

    def submit(self, jobs: int) -> None:
        """Submit jobs in chunks, evenly distributed over the lanes."""
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
        """Plan, claim and settle ``jobs`` jobs."""
        self.planner.renew("bench", slots=100_000, worker_info="{}", held=[])
        done = 0
        while done < jobs:
            started = self.planner.plan(limit=min(100, jobs - done)).dispatches
            self._claim(started)
            self._settle(started)
            done += len(started)

    def _claim(self, started: list[Dispatch]) -> None:
        self._send(self.claim, [(dispatch, [dispatch.attempt, "bench", "token"]) for dispatch in started])

    def _settle(self, started: list[Dispatch]) -> None:
        fields = [SETTLEMENT, LOG, "output", json.dumps(OUTPUT)]
        self._send(self.end, [(dispatch, [dispatch.attempt, *fields]) for dispatch in started])

    def _send(self, script: Script, calls: list[tuple[Dispatch, list[Any]]]) -> None:
        """Call a script for many jobs in one pipeline, in place of a fleet of workers."""
        pipe = self.redis.pipeline(transaction=False)
        for dispatch, arguments in calls:
            job = self.keys.job(dispatch.job_id)
            keys = [*self.keys.common_keys, job, job]
            script(keys=keys, args=[0, RETENTION_MS, LEASE_MS, *arguments], client=pipe)
        pipe.execute()


def _drive(plan: Plan, number: int, drivers: int, jobs: int, submitted: Barrier) -> None:
    """Run one driver: it has its own rows and, if there are enough lanes, its own lanes."""
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
    row("", "jobs/s", "jobs/CPU s", "submit µs", "plan+… µs", "bytes a job")
    with tempfile.TemporaryDirectory(prefix="retouch-bench-") as folder, Valkey(Path(folder)) as valkey:
        for number, lanes in enumerate(LANES):
            _case(valkey, f"b{number}:", lanes, SHALLOW, options)
        _case(valkey, "deep:", 100, options.deep, options, rewriting=True)


def _case(
    valkey: Valkey, prefix: str, lanes: int, backlog: int, options: argparse.Namespace, *, rewriting: bool = False
) -> None:
    """Measure one row; with `rewriting` also a second row, while the append-only file is rewritten."""
    plan = Plan(valkey, prefix, lanes)
    before = _memory(plan.redis)
    plan.submit(backlog)
    job_bytes = (_memory(plan.redis) - before) / backlog
    # During a rewrite, each modified page is copied. Valkey rewrites only when the file has doubled.
    _wait_for_rewrite(plan.redis)
    plan.redis.config_set("auto-aof-rewrite-percentage", 0)
    name = f"{lanes} lanes, {backlog:,} queued before"
    _measure(plan, valkey, name, options, f"{job_bytes:.0f}" if backlog > SHALLOW else "")
    if rewriting:
        plan.redis.bgrewriteaof()
        _measure(plan, valkey, "… while the file is rewritten", options, "")
        _wait_for_rewrite(plan.redis)
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
    began, cpu_before = time.perf_counter(), cpu_s(valkey.pid)
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
    # The next measurement continues with higher row numbers.
    plan.rows = [row + (options.drivers + 1) * ROWS_OF_A_DRIVER for row in plan.rows]
    row(
        name,
        f"{jobs / (ended - began):.0f}",
        f"{jobs / (run_cpu - cpu_before):.0f}",
        f"{1e6 * (submit_cpu - cpu_before) / jobs:.0f}",
        f"{1e6 * (run_cpu - submit_cpu) / jobs:.0f}",
        memory,
    )


def _wait_for_rewrite(redis: Redis) -> None:
    """Wait until a rewrite of the append-only file has ended."""
    while redis.info("persistence")["aof_rewrite_in_progress"]:
        time.sleep(0.5)


def _memory(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


if __name__ == "__main__":
    main()
