"""Chaos: a stand under load whose parts are killed at random, and an audit of what is left.

    python -m infra.chaos --minutes 10 [--seed N]

The same seed chooses the same load and the same faults in the same order; when they fall is up to the machine. It ends
by itself, prints its seed and a table, and its status is 1 where something does not hold.
"""

import argparse
import os
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from infra.chaos_audit import (
    Fault,
    Report,
    audit_counts,
    audit_events,
    audit_jobs,
    audit_outputs,
    audit_purchases,
    wanted_events,
)
from infra.chaos_load import SUBSCRIBED, Feeder, Inbox, insist, receiving
from infra.embedded import SeaweedFS, Valkey
from infra.stand import KEY, Process, Simulator, catalogue_toml, simulator_process, worker_process
from jobs.domain import Domain
from jobs.settings import Settings
from jobs.states import FINAL

LEASE_S = 6.0
GRACE_S = 5.0
THREADS = 8
WEBHOOK_TIMEOUT_S = 4.0
SETTLE_S = 240.0
"""How long everything may take to end once nothing is killed any more, in seconds."""


@dataclass(frozen=True)
class Dose:
    """How much of it.

    Attributes:
        faults: a deck of what is done; dealt in random order, and again while there is time.
        seconds: faults go on for so long, and until the deck has been dealt once.
        pause_s: least and most between two faults, in seconds.
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
    *(("drain_worker", "kill_store", "kill_bucket") * 2),
    "freeze_worker",
    "flush_broker",
    "refuse_key",
    "take_endpoint_down",
)


class Arena:
    """Servers and workers, and the hand that hurts them. Servers are started by the thread that made it.

    Args:
        domain: what its processes work with.
        valkey, seaweedfs, simulator: its servers.
        directory: for logs.
        seed: of every choice.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        valkey: Valkey,
        seaweedfs: SeaweedFS,
        simulator: Simulator,
        directory: Path,
        seed: int,
    ) -> None:
        self._domain = domain
        self._valkey = valkey
        self._seaweedfs = seaweedfs
        self._simulator = simulator
        self._directory = directory
        self._rng = random.Random(f"faults {seed}")  # noqa: S311 - no secret
        self._started = 0
        self._workers: dict[str, Process] = {}
        self._leaving: list[Process] = []
        self.faults: list[Fault] = []

    def start_worker(self) -> None:
        """One more worker, of all queues."""
        self._started += 1
        name = f"chaos{self._started}@chaos"
        self._workers[name] = worker_process(
            self._domain.settings,
            self._directory / f"{name}.log",
            name,
            queues="edits,webhooks,ingest",
            concurrency=THREADS,
            grace_s=GRACE_S,
            RETOUCH_WEBHOOK_TIMEOUT_S=str(WEBHOOK_TIMEOUT_S),
        )

    def wait_ready(self) -> None:
        """Return once the pulse of each worker is felt."""
        for name, process in self._workers.items():
            process.wait_until(lambda name=name: name in self._alive(), 90)  # type: ignore[misc]

    def _alive(self) -> set[str]:
        return {worker.name for worker in insist(self._domain.status.workers)}

    def torment(self, dose: Dose) -> None:
        """Do what the dose says, one fault after the other."""
        until = time.monotonic() + dose.seconds
        while True:
            deck = list(dose.faults)
            self._rng.shuffle(deck)
            for what in deck:
                time.sleep(self._rng.uniform(*dose.pause_s))
                self._raise_the_dead()
                getattr(self, what)()
            if time.monotonic() >= until:
                break

    def kill_worker(self) -> None:
        """SIGKILL, and another one in its place."""
        name = self._one()
        began = time.time()
        self._workers.pop(name).kill()
        self._note("worker killed", began, name)
        self.start_worker()

    def drain_worker(self) -> None:
        """SIGTERM, and another one in its place."""
        name = self._one()
        process = self._workers.pop(name)
        began = time.time()
        process.popen.terminate()
        self._leaving.append(process)
        # What its grace did not suffice for is handed back at its end.
        self.faults.append(Fault("worker drained", "handed_back", began, began + GRACE_S + 1))
        self.start_worker()

    def freeze_worker(self) -> None:
        """SIGSTOP for longer than a lease: what it writes afterwards comes too late."""
        name = self._one()
        process = self._workers[name]
        began = time.time()
        process.popen.send_signal(signal.SIGSTOP)
        try:
            time.sleep(LEASE_S * self._rng.uniform(1.1, 1.6))
        finally:
            process.popen.send_signal(signal.SIGCONT)
        self._note("worker frozen", began, name)

    def kill_store(self) -> None:
        """SIGKILL of Valkey, records and broker alike."""
        began = time.time()
        self._valkey.kill()
        time.sleep(self._rng.uniform(0, 2.5))
        self._valkey.restart(60)
        self._note("store killed", began)

    def kill_bucket(self) -> None:
        """SIGKILL of SeaweedFS."""
        began = time.time()
        self._seaweedfs.kill()
        time.sleep(self._rng.uniform(0, 2.5))
        self._seaweedfs.restart(60)
        self._note("bucket killed", began)

    def flush_broker(self) -> None:
        """Every message is gone."""
        began = time.time()
        with Redis.from_url(self._domain.settings.broker) as broker:
            broker.flushdb()
        self._note("broker flushed", began)

    def refuse_key(self) -> None:
        """The endpoint answers 401 for some seconds: the model is parked, and no job fails."""
        self._for_a_while("key refused", {"keys": ["another-key"]}, {"keys": [KEY]})

    def take_endpoint_down(self) -> None:
        """The endpoint answers 503 for some seconds: the model is parked where that lasts, and no job fails."""
        self._for_a_while("endpoint down", {"error_rate": 1, "error_statuses": [503]}, {"error_rate": 0})

    def _for_a_while(self, what: str, knobs: dict[str, object], after: dict[str, object]) -> None:
        began = time.time()
        httpx.patch(f"{self._simulator}/_sim/knobs", json=knobs).raise_for_status()
        time.sleep(self._rng.uniform(2, 6))
        httpx.patch(f"{self._simulator}/_sim/knobs", json=after).raise_for_status()
        self._note(what, began)

    def lost(self) -> list[str]:
        """Workers that ended without having been told to, and why."""
        return [
            f"{name} ended by itself with status {process.popen.returncode}:\n{process.log.read_text()[-1500:]}"
            for name, process in self._workers.items()
            if process.popen.poll() is not None
        ]

    def close(self) -> None:
        """End what runs."""
        for process in [*self._workers.values(), *self._leaving]:
            process.popen.terminate()
        for process in [*self._workers.values(), *self._leaving]:
            process.close(GRACE_S + 3)

    def _one(self) -> str:
        return self._rng.choice(sorted(self._workers))

    def _raise_the_dead(self) -> None:
        """As a supervisor would: a worker that wants to be started again is."""
        for name in [name for name, process in self._workers.items() if process.popen.poll() == os.EX_TEMPFAIL]:
            self._workers.pop(name).close()
            self.start_worker()

    def _note(self, what: str, began: float, name: str = "") -> None:
        self.faults.append(Fault(what, name, began, time.time()))


def run(dose: Dose, seed: int, *, say: Callable[[str], None]) -> Report:
    """One run, from empty servers to the audit.

    Args:
        dose: how much.
        seed: of every choice.
        say: told how it goes.

    Raises:
        StackError: a server does not start.
        RuntimeError: a worker does not.
        TimeoutError: what was accepted does not come to its end.
    """
    began = time.monotonic()
    with _stand(seed) as (arena, domain, simulator, inbox):
        feeder = Feeder(domain, seed)
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
            arena.torment(dose)
        finally:
            over.set()
        feeding.join(120)
        if failed:
            raise failed[0]
        say(f"{len(feeder.asked)} jobs were accepted, {len(arena.faults)} faults are over; now they may end")
        _wait(lambda: _ended(domain) == len(feeder.asked), lambda: f"{_ended(domain)} of {len(feeder.asked)} ended")
        jobs = {one.job_id: domain.store.get(one.tenant, one.job_id) for one in feeder.asked}
        wanted = wanted_events(feeder.asked, jobs, feeder.batches)
        _wait(
            lambda: not inbox.missing(wanted), lambda: f"{len(inbox.missing(wanted))} events did not come", fatal=False
        )
        calls = httpx.get(f"{simulator}/_sim/calls", timeout=60).json()["data"]
        report = Report(dict(sorted(Counter(fault.what for fault in arena.faults).items())))
        audit_jobs(report, feeder.asked, jobs)
        audit_counts(report, domain, feeder.asked, jobs, feeder.batches)
        audit_outputs(report, domain, jobs.values())
        audit_events(report, inbox, wanted)
        audit_purchases(report, feeder.asked, jobs, calls, arena.faults)
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
def _stand(seed: int) -> Iterator[tuple[Arena, Domain, Simulator, Inbox]]:
    with ExitStack() as held:
        directory = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="retouch-chaos-")))
        valkey = held.enter_context(Valkey(directory))
        seaweedfs = held.enter_context(SeaweedFS(directory))
        simulator = held.enter_context(simulator_process(latency_ms=150, latency_jitter_ms=100, fast=True))
        inbox = held.enter_context(receiving())
        keys = {"AWS_ACCESS_KEY_ID": seaweedfs.access_key, "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_key}
        held.enter_context(_environment(keys))
        config = directory / "retouch.toml"
        config.write_text(catalogue_toml(simulator, concurrency=32, rpm=60_000, timeout_s=15))
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
        arena = Arena(domain, valkey=valkey, seaweedfs=seaweedfs, simulator=simulator, directory=directory, seed=seed)
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
    parser = argparse.ArgumentParser(prog="python -m infra.chaos", description="Kill at random, then count.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run; chosen where it is not given")
    given = parser.parse_args(argv)
    seed = secrets.randbelow(1 << 31) if given.seed is None else given.seed

    def say(words: str) -> None:
        print(words, flush=True)  # noqa: T201 - this is its output

    dose = Dose(LONG, given.minutes * 60, (2, 8), singles=200, rows=100, waves=10_000)
    report = run(dose, seed, say=say)
    say(report.table())
    say(f"seed {seed}: {'all holds' if not report.faults else f'{len(report.faults)} faults'}")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
