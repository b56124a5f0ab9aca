"""Injects faults into the API, the workers, Valkey, SeaweedFS and the simulated endpoint."""

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from redis import Redis

from infra.chaos.audit import Fault
from infra.chaos.load import retry_while_unavailable
from infra.local.embedded_servers import SeaweedFS, Server, Valkey
from infra.local.harness import KEY, Process, Simulator, api_process, worker_process
from infra.local.ports import Ports
from jobs.wiring import Domain

LEASE_S = 6.0
GRACE_S = 5.0
THREADS = 8
WEBHOOK_TIMEOUT_S = 4.0


class FaultInjector:
    """Runs the API and the workers, and injects faults. Call it from the thread that created it.

    Args:
        domain: domain whose settings the processes use.
        valkey, seaweedfs, simulator: the running servers.
        logs: directory for the logs of the API and the workers.
        seed: seed of all random choices.

    Attributes:
        api: origin of the API.
        faults: the faults injected so far.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        valkey: Valkey,
        seaweedfs: SeaweedFS,
        simulator: Simulator,
        logs: Path,
        seed: int,
    ) -> None:
        self._domain = domain
        self._valkey = valkey
        self._seaweedfs = seaweedfs
        self._simulator = simulator
        self._logs = logs
        self._rng = random.Random(f"faults {seed}")  # noqa: S311 - no secret
        self._started = 0
        self._workers: dict[str, Process] = {}
        self._draining: list[Process] = []
        self._port = Ports().choose("api")
        self.api = f"http://127.0.0.1:{self._port}"
        self._api = self._start_api()
        self.faults: list[Fault] = []

    def _start_api(self) -> Process:
        return api_process(self._domain.settings, self._logs / "api.log", self._port)

    def start_worker(self) -> None:
        """Start one more worker for all queues."""
        self._started += 1
        name = f"chaos{self._started}@chaos"
        self._workers[name] = worker_process(
            self._domain.settings,
            self._logs / f"{name}.log",
            name,
            queues="edits,webhooks,ingest",
            concurrency=THREADS,
            grace_s=GRACE_S,
            RETOUCH_WEBHOOK_TIMEOUT_S=str(WEBHOOK_TIMEOUT_S),
        )

    def wait_ready(self) -> None:
        """Wait until each worker has sent a heartbeat. Does not wait for the API."""
        for name, process in self._workers.items():
            process.wait_until(lambda name=name: name in self._alive(), 90)  # type: ignore[misc]

    def _alive(self) -> set[str]:
        return {worker.name for worker in retry_while_unavailable(self._domain.status.workers)}

    def inject(self, faults: Sequence[str], *, seconds: float, pause_s: tuple[float, float]) -> None:
        """Inject faults one after the other.

        Args:
            faults: names of methods of this class. They run in random order, again and again until the time is over.
            seconds: minimum duration; each fault runs at least once.
            pause_s: minimum and maximum pause before each fault, in seconds.
        """
        deadline = time.monotonic() + seconds
        while True:
            shuffled = list(faults)
            self._rng.shuffle(shuffled)
            for method in shuffled:
                time.sleep(self._rng.uniform(*pause_s))
                self._restart_stopped()
                getattr(self, method)()
            if time.monotonic() >= deadline:
                break

    def kill_worker(self) -> None:
        """Kill a worker by SIGKILL and start another one."""
        name = self._any_worker()
        started_at = time.time()
        self._workers.pop(name).kill()
        self._record("worker killed", started_at, name)
        self.start_worker()

    def kill_api(self) -> None:
        """Kill the API by SIGKILL and start it again. The users repeat requests without an answer."""
        started_at = time.time()
        self._api.kill()
        self._api.close()
        self._api = self._start_api()
        self._record("api killed", started_at)

    def drain_worker(self) -> None:
        """Stop a worker by SIGTERM and start another one."""
        name = self._any_worker()
        process = self._workers.pop(name)
        started_at = time.time()
        process.popen.terminate()
        self._draining.append(process)
        # It hands back the jobs that did not finish within the grace period.
        self.faults.append(Fault("worker drained", "handed_back", started_at, started_at + GRACE_S + 1))
        self.start_worker()

    def freeze_worker(self) -> None:
        """Stop a worker by SIGSTOP for longer than a lease, so that its later writes must be rejected."""
        name = self._any_worker()
        process = self._workers[name]
        started_at = time.time()
        process.popen.send_signal(signal.SIGSTOP)
        try:
            time.sleep(LEASE_S * self._rng.uniform(1.1, 1.6))
        finally:
            process.popen.send_signal(signal.SIGCONT)
        self._record("worker frozen", started_at, name)

    def kill_store(self) -> None:
        """Kill Valkey by SIGKILL: the records and the broker."""
        self._kill(self._valkey, "store killed")

    def kill_bucket(self) -> None:
        """Kill SeaweedFS by SIGKILL."""
        self._kill(self._seaweedfs, "bucket killed")

    def _kill(self, server: Server, what: str) -> None:
        started_at = time.time()
        server.kill()
        time.sleep(self._rng.uniform(0, 2.5))
        server.restart(60)
        self._record(what, started_at)

    def flush_broker(self) -> None:
        """Delete all messages of the broker."""
        started_at = time.time()
        with Redis.from_url(self._domain.settings.broker) as broker:
            broker.flushdb()
        self._record("broker flushed", started_at)

    def refuse_key(self) -> None:
        """Let the endpoint answer 401 for some seconds: the model is parked, and no job fails."""
        self._set_knobs_for_a_while("key refused", {"keys": ["another-key"]}, {"keys": [KEY]})

    def take_endpoint_down(self) -> None:
        """Let the endpoint answer 503 for some seconds: the model may be parked, and no job fails."""
        self._set_knobs_for_a_while("endpoint down", {"error_rate": 1, "error_statuses": [503]}, {"error_rate": 0})

    def _set_knobs_for_a_while(self, what: str, knobs: dict[str, object], after: dict[str, object]) -> None:
        started_at = time.time()
        httpx.patch(f"{self._simulator}/_sim/knobs", json=knobs).raise_for_status()
        time.sleep(self._rng.uniform(2, 6))
        httpx.patch(f"{self._simulator}/_sim/knobs", json=after).raise_for_status()
        self._record(what, started_at)

    def unexpected_exits(self) -> list[str]:
        """Describe the processes that ended without a fault."""
        return [
            f"{name} ended by itself with status {process.popen.returncode}:\n{process.log.read_text()[-1500:]}"
            for name, process in {**self._workers, "the API": self._api}.items()
            if process.popen.poll() is not None
        ]

    def close(self) -> None:
        """Stop all processes."""
        running = [*self._workers.values(), *self._draining, self._api]
        for process in running:
            process.popen.terminate()
        for process in running:
            process.close(GRACE_S + 3)

    def _any_worker(self) -> str:
        return self._rng.choice(sorted(self._workers))

    def _restart_stopped(self) -> None:
        """Start a new worker for each one that exited with the status that asks for a restart."""
        for name in [name for name, process in self._workers.items() if process.popen.poll() == os.EX_TEMPFAIL]:
            self._workers.pop(name).close()
            self._record("worker left by itself", time.time(), name)
            self.start_worker()

    def _record(self, what: str, started_at: float, name: str = "") -> None:
        self.faults.append(Fault(what, name, started_at, time.time()))
