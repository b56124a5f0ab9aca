"""The chaos run: kills processes at random under load, and then audits the data.

    python -m infra.chaos.__main__ --minutes 10 [--seed N] [--logs DIRECTORY]

The same seed gives the same load and the same order of faults; the exact times depend on the machine. The run prints
its seed and a table. Its exit status is 1 if the audit finds a fault.
"""

import argparse
import os
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import SecretStr
from redis.exceptions import RedisError

from infra.chaos.arena import LEASE_S, FaultInjector
from infra.chaos.audit import (
    Report,
    audit_counts,
    audit_events,
    audit_jobs,
    audit_outputs,
    audit_purchases,
    expected_events,
)
from infra.chaos.load import SUBSCRIBED, Feeder, Inbox, inline_model_toml, receiving
from infra.local.embedded_servers import SeaweedFS, Valkey
from infra.local.harness import Simulator, catalogue_toml, simulator_process
from jobs.foundation.job_states import FINAL
from jobs.foundation.settings import Settings
from jobs.wiring import Domain

SETTLE_S = 240.0
"""Maximum time for all jobs to end after the last fault, in seconds."""


@dataclass(frozen=True)
class ChaosPlan:
    """The size of a chaos run.

    Attributes:
        faults, seconds, pause_s: arguments of `FaultInjector.inject`.
        singles, rows: single jobs of a wave, and rows in each of its two batches.
        waves: maximum number of waves; a new one starts when half of the last one has ended.
        workers: number of worker processes.
    """

    faults: tuple[str, ...]
    seconds: float
    pause_s: tuple[float, float]
    singles: int
    rows: int
    waves: int
    workers: int = 2


LONG_RUN_FAULTS = (
    *(("kill_worker",) * 6),
    *(("kill_api", "drain_worker", "kill_store", "kill_bucket") * 2),
    "freeze_worker",
    "flush_broker",
    "refuse_key",
    "take_endpoint_down",
)


def run(plan: ChaosPlan, seed: int, *, say: Callable[[str], None], logs: Path | None = None) -> Report:
    """Start servers, apply the load and the faults, and audit the data.

    Args:
        plan: size of the run.
        seed: seed of all random choices.
        say: prints a progress message.
        logs: directory for the logs of the processes; None deletes them at the end.

    Raises:
        StackError: a server does not start.
        RuntimeError: a worker does not start.
        TimeoutError: accepted jobs do not end in time.
    """
    started_at = time.monotonic()
    with ExitStack() as stack:
        injector, domain, simulator, inbox = stack.enter_context(_system(seed, logs))
        feeder = stack.enter_context(closing(Feeder(injector.api, domain, seed)))
        feeder.upload_pictures()
        for _ in range(plan.workers):
            injector.start_worker()
        injector.wait_ready()
        say(f"seed {seed}: {plan.workers} workers are ready after {time.monotonic() - started_at:.0f} s")
        stop = threading.Event()
        errors: list[BaseException] = []
        feed_thread = threading.Thread(target=_feed, args=(feeder, domain, plan, stop, errors), daemon=True)
        feed_thread.start()
        try:
            injector.inject(plan.faults, seconds=plan.seconds, pause_s=plan.pause_s)
        finally:
            stop.set()
        feed_thread.join(120)
        if errors:
            raise errors[0]
        say(f"accepted {len(feeder.submitted)} jobs, injected {len(injector.faults)} faults; waiting for the end")
        # As an operator does after a repair: the pause before the next probe can be minutes long.
        for model in domain.catalogue.models:
            domain.planner.resume(model)
        _wait(
            lambda: _ended(domain) == len(feeder.submitted),
            lambda: f"{_ended(domain)} of {len(feeder.submitted)} ended",
        )
        jobs = {job.job_id: domain.job_reader.get(job.tenant, job.job_id) for job in feeder.submitted}
        expected = expected_events(feeder, jobs)
        _wait(
            lambda: not inbox.missing(expected),
            lambda: f"{len(inbox.missing(expected))} events are missing",
            fatal=False,
        )
        calls = httpx.get(f"{simulator}/_sim/calls", timeout=60).json()["data"]
        report = Report(dict(sorted(Counter(fault.what for fault in injector.faults).items())))
        audit_jobs(report, feeder, jobs)
        audit_counts(report, domain, feeder, jobs)
        audit_outputs(report, domain, jobs.values())
        audit_events(report, inbox, expected)
        audit_purchases(report, feeder, jobs, calls, injector.faults)
        report.faults += injector.unexpected_exits()
        report.rows["seconds"] = round(time.monotonic() - started_at)
        return report


def _feed(feeder: Feeder, domain: Domain, plan: ChaosPlan, stop: threading.Event, errors: list[BaseException]) -> None:
    size = plan.singles + plan.rows * len(SUBSCRIBED)
    try:
        for wave in range(plan.waves):
            feeder.wave(plan.singles, plan.rows)
            while wave + 1 < plan.waves and len(feeder.submitted) - _ended(domain) > size / 2 and not stop.wait(0.5):
                pass
            if stop.is_set():
                break
    except BaseException as error:  # noqa: BLE001 - the main thread raises it
        errors.append(error)


def _ended(domain: Domain) -> int:
    """Return the number of final jobs in the indexes; 0 while Redis is unavailable."""
    try:
        return sum(int(str(domain.redis.zcard(domain.keys.index(t, s)))) for t in SUBSCRIBED for s in FINAL)
    except RedisError:
        return 0


def _wait(condition: Callable[[], object], describe: Callable[[], str], *, fatal: bool = True) -> None:
    deadline = time.monotonic() + SETTLE_S
    while not condition():
        if time.monotonic() > deadline:
            if fatal:
                raise TimeoutError(f"after {SETTLE_S:g} s: {describe()}")
            return
        time.sleep(0.2)


@contextmanager
def _system(seed: int, logs: Path | None) -> Iterator[tuple[FaultInjector, Domain, Simulator, Inbox]]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retouch-chaos-")))
        if logs:
            logs.mkdir(parents=True, exist_ok=True)
        valkey = stack.enter_context(Valkey(directory))
        seaweedfs = stack.enter_context(SeaweedFS(directory))
        simulator = stack.enter_context(simulator_process(latency_ms=150, latency_jitter_ms=100, fast=True))
        inbox = stack.enter_context(receiving())
        keys = {"AWS_ACCESS_KEY_ID": seaweedfs.access_key, "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_key}
        stack.enter_context(_environment(keys))
        config = directory / "retouch.toml"
        default = catalogue_toml(simulator, concurrency=32, rpm=60_000, timeout_s=15)
        config.write_text(default + inline_model_toml(simulator))
        settings = Settings(
            redis_url=SecretStr(valkey.url),
            broker_url=SecretStr(valkey.url_of(1)),
            s3_endpoint_url=seaweedfs.endpoint_url,
            s3_bucket=seaweedfs.bucket,
            allow_private_addresses="127.0.0.0/8",
            config=config,
            lease_s=LEASE_S,
        )
        domain = Domain.open(settings)
        stack.callback(domain.close)
        domain.planner.register_models()
        inbox.subscribe(domain)
        injector = FaultInjector(
            domain, valkey=valkey, seaweedfs=seaweedfs, simulator=simulator, logs=logs or directory, seed=seed
        )
        stack.callback(injector.close)
        yield injector, domain, simulator, inbox


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def main(argv: Sequence[str] | None = None) -> int:
    """Run for some minutes; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.chaos.__main__", description="Kill processes at random, then audit the data."
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="seed of an earlier run; default: random")
    parser.add_argument("--logs", type=Path, default=None, help="directory for the logs of the API and the workers")
    options = parser.parse_args(argv)
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed

    def say(message: str) -> None:
        print(message, flush=True)  # noqa: T201 - this is its output

    plan = ChaosPlan(LONG_RUN_FAULTS, options.minutes * 60, (2, 8), singles=200, rows=100, waves=10_000)
    report = run(plan, seed, say=say, logs=options.logs)
    say(report.table())
    say(f"seed {seed}: {'no faults' if not report.faults else f'{len(report.faults)} faults'}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
