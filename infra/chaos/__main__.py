"""Chaos: a stand under load whose parts are killed at random, and an audit of what is left.

    python -m infra.chaos.__main__ --minutes 10 [--seed N] [--logs DIRECTORY]

The same seed chooses the same load and the same faults in the same order; when they fall is up to the machine. It ends
by itself, prints its seed and a table, and its status is 1 where something does not hold.
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

from infra.chaos.arena import LEASE_S, Arena
from infra.chaos.audit import (
    Report,
    audit_counts,
    audit_events,
    audit_jobs,
    audit_outputs,
    audit_purchases,
    wanted_events,
)
from infra.chaos.load import SUBSCRIBED, Feeder, Inbox, inline_model_toml, receiving
from infra.local.embedded_servers import SeaweedFS, Valkey
from infra.local.harness import Simulator, catalogue_toml, simulator_process
from jobs.foundation.job_states import FINAL
from jobs.foundation.settings import Settings
from jobs.wiring import Domain

SETTLE_S = 240.0
"""How long everything may take to end once nothing is killed any more, in seconds."""


@dataclass(frozen=True)
class Dose:
    """How much of it.

    Attributes:
        faults, seconds, pause_s: what is done, for how long and how often, as `Arena.torment` takes them.
        singles, rows: jobs of a wave, singly and in each of two batches.
        waves: most of them; a new one comes when half of the last has ended.
        workers: processes.
    """

    faults: tuple[str, ...]
    seconds: float
    pause_s: tuple[float, float]
    singles: int
    rows: int
    waves: int
    workers: int = 2


LONG = (
    *(("kill_worker",) * 6),
    *(("kill_api", "drain_worker", "kill_store", "kill_bucket") * 2),
    "freeze_worker",
    "flush_broker",
    "refuse_key",
    "take_endpoint_down",
)


def run(dose: Dose, seed: int, *, say: Callable[[str], None], logs: Path | None = None) -> Report:
    """One run, from empty servers to the audit.

    Args:
        dose: how much.
        seed: of every choice.
        say: told how it goes.
        logs: where the logs of the processes are kept; gone with the stand where it is None.

    Raises:
        StackError: a server does not start.
        RuntimeError: a worker does not.
        TimeoutError: what was accepted does not come to its end.
    """
    began = time.monotonic()
    with ExitStack() as held:
        arena, domain, simulator, inbox = held.enter_context(_stand(seed, logs))
        feeder = held.enter_context(closing(Feeder(arena.api, domain, seed)))
        feeder.keep_pictures()
        for _ in range(dose.workers):
            arena.start_worker()
        arena.wait_ready()
        say(f"seed {seed}: {dose.workers} workers are ready after {time.monotonic() - began:.0f} s")
        over = threading.Event()
        failed: list[BaseException] = []
        feeding = threading.Thread(target=_feed, args=(feeder, domain, dose, over, failed), daemon=True)
        feeding.start()
        try:
            arena.torment(dose.faults, seconds=dose.seconds, pause_s=dose.pause_s)
        finally:
            over.set()
        feeding.join(120)
        if failed:
            raise failed[0]
        say(f"{len(feeder.asked)} jobs were accepted, {len(arena.faults)} faults are over; now they may end")
        # As an operator would who has put things right: the pause before the next probe may have grown to minutes.
        for model in domain.catalogue.models:
            domain.planner.resume(model)
        _wait(lambda: _ended(domain) == len(feeder.asked), lambda: f"{_ended(domain)} of {len(feeder.asked)} ended")
        jobs = {one.job_id: domain.store.get(one.tenant, one.job_id) for one in feeder.asked}
        wanted = wanted_events(feeder, jobs)
        _wait(
            lambda: not inbox.missing(wanted), lambda: f"{len(inbox.missing(wanted))} events did not come", fatal=False
        )
        calls = httpx.get(f"{simulator}/_sim/calls", timeout=60).json()["data"]
        report = Report(dict(sorted(Counter(fault.what for fault in arena.faults).items())))
        audit_jobs(report, feeder, jobs)
        audit_counts(report, domain, feeder, jobs)
        audit_outputs(report, domain, jobs.values())
        audit_events(report, inbox, wanted)
        audit_purchases(report, feeder, jobs, calls, arena.faults)
        report.faults += arena.lost()
        report.rows["seconds"] = round(time.monotonic() - began)
        return report


def _feed(feeder: Feeder, domain: Domain, dose: Dose, over: threading.Event, failed: list[BaseException]) -> None:
    size = dose.singles + dose.rows * len(SUBSCRIBED)
    try:
        for wave in range(dose.waves):
            feeder.wave(dose.singles, dose.rows)
            while wave + 1 < dose.waves and len(feeder.asked) - _ended(domain) > size / 2 and not over.wait(0.5):
                pass
            if over.is_set():
                break
    except BaseException as error:  # noqa: BLE001 - told by the thread that waits for this one
        failed.append(error)


def _ended(domain: Domain) -> int:
    """Jobs that are final, by the indexes; 0 while the store is away."""
    try:
        return sum(int(str(domain.redis.zcard(domain.keys.index(t, s)))) for t in SUBSCRIBED for s in FINAL)
    except RedisError:
        return 0


def _wait(holds: Callable[[], object], words: Callable[[], str], *, fatal: bool = True) -> None:
    deadline = time.monotonic() + SETTLE_S
    while not holds():
        if time.monotonic() > deadline:
            if fatal:
                raise TimeoutError(f"not within {SETTLE_S:g} s: {words()}")
            return
        time.sleep(0.2)


@contextmanager
def _stand(seed: int, logs: Path | None) -> Iterator[tuple[Arena, Domain, Simulator, Inbox]]:
    with ExitStack() as held:
        directory = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="retouch-chaos-")))
        if logs:
            logs.mkdir(parents=True, exist_ok=True)
        valkey = held.enter_context(Valkey(directory))
        seaweedfs = held.enter_context(SeaweedFS(directory))
        simulator = held.enter_context(simulator_process(latency_ms=150, latency_jitter_ms=100, fast=True))
        inbox = held.enter_context(receiving())
        keys = {"AWS_ACCESS_KEY_ID": seaweedfs.access_key, "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_key}
        held.enter_context(_environment(keys))
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
        held.callback(domain.close)
        domain.planner.register_models()
        inbox.subscribe(domain)
        arena = Arena(
            domain, valkey=valkey, seaweedfs=seaweedfs, simulator=simulator, logs=logs or directory, seed=seed
        )
        held.callback(arena.close)
        yield arena, domain, simulator, inbox


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
    """Run for some minutes; the exit status says whether all holds."""
    parser = argparse.ArgumentParser(prog="python -m infra.chaos.__main__", description="Kill at random, then count.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run; chosen where it is not given")
    parser.add_argument("--logs", type=Path, default=None, help="a directory for the logs of the API and the workers")
    given = parser.parse_args(argv)
    seed = secrets.randbelow(1 << 31) if given.seed is None else given.seed

    def say(words: str) -> None:
        print(words, flush=True)  # noqa: T201 - this is its output

    dose = Dose(LONG, given.minutes * 60, (2, 8), singles=200, rows=100, waves=10_000)
    report = run(dose, seed, say=say, logs=given.logs)
    say(report.table())
    say(f"seed {seed}: {'all holds' if not report.faults else f'{len(report.faults)} faults'}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
