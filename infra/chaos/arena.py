"""What a chaos run hurts: the API, workers, Valkey, SeaweedFS and the endpoint, and how."""

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from redis import Redis

from infra.chaos.audit import Fault
from infra.chaos.load import insist
from infra.local.embedded_servers import SeaweedFS, Server, Valkey
from infra.local.harness import KEY, Process, Simulator, api_process, worker_process
from infra.local.ports import Ports
from jobs.wiring import Domain

LEASE_S = 6.0
GRACE_S = 5.0
THREADS = 8
WEBHOOK_TIMEOUT_S = 4.0


class Arena:
    """Servers, the API and workers, and the hand that hurts them. Servers are started by the thread that made it.

    Args:
        domain: what its processes work with.
        valkey, seaweedfs, simulator: its servers.
        logs: a directory for those of the API and the workers.
        seed: of every choice.

    Attributes:
        api: origin of the API.
        faults: what was done so far.
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
        self._leaving: list[Process] = []
        self._port = Ports().choose("api")
        self.api = f"http://127.0.0.1:{self._port}"
        self._api = self._start_api()
        self.faults: list[Fault] = []

    def _start_api(self) -> Process:
        return api_process(self._domain.settings, self._logs / "api.log", self._port)

    def start_worker(self) -> None:
        """One more worker, of all queues."""
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
        """Return once the pulse of each worker is felt; the API is waited for by who needs it."""
        for name, process in self._workers.items():
            process.wait_until(lambda name=name: name in self._alive(), 90)  # type: ignore[misc]

    def _alive(self) -> set[str]:
        return {worker.name for worker in insist(self._domain.status.workers)}

    def torment(self, faults: Sequence[str], *, seconds: float, pause_s: tuple[float, float]) -> None:
        """Do one fault after the other.

        Args:
            faults: methods of this class, a deck: dealt in random order, and again while there is time.
            seconds: for how long, and until the deck has been dealt once.
            pause_s: least and most between two of them.
        """
        until = time.monotonic() + seconds
        while True:
            deck = list(faults)
            self._rng.shuffle(deck)
            for what in deck:
                time.sleep(self._rng.uniform(*pause_s))
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

    def kill_api(self) -> None:
        """SIGKILL, and it is started again: what it answered was true, and what it did not is asked again."""
        began = time.time()
        self._api.kill()
        self._api.close()
        self._api = self._start_api()
        self._note("api killed", began)

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
        self._kill(self._valkey, "store killed")

    def kill_bucket(self) -> None:
        """SIGKILL of SeaweedFS."""
        self._kill(self._seaweedfs, "bucket killed")

    def _kill(self, server: Server, what: str) -> None:
        began = time.time()
        server.kill()
        time.sleep(self._rng.uniform(0, 2.5))
        server.restart(60)
        self._note(what, began)

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
        """Processes that ended without having been told to, and why."""
        return [
            f"{name} ended by itself with status {process.popen.returncode}:\n{process.log.read_text()[-1500:]}"
            for name, process in {**self._workers, "the API": self._api}.items()
            if process.popen.poll() is not None
        ]

    def close(self) -> None:
        """End what runs."""
        running = [*self._workers.values(), *self._leaving, self._api]
        for process in running:
            process.popen.terminate()
        for process in running:
            process.close(GRACE_S + 3)

    def _one(self) -> str:
        return self._rng.choice(sorted(self._workers))

    def _raise_the_dead(self) -> None:
        """As a supervisor would: a worker that wants to be started again is."""
        for name in [name for name, process in self._workers.items() if process.popen.poll() == os.EX_TEMPFAIL]:
            self._workers.pop(name).close()
            self._note("worker left by itself", time.time(), name)
            self.start_worker()

    def _note(self, what: str, began: float, name: str = "") -> None:
        self.faults.append(Fault(what, name, began, time.time()))
