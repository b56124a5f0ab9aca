"""The environment of the benchmarks: embedded servers, a fast simulator, and the CPU time of every process."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from PIL import Image
from pydantic import SecretStr

from infra.local.embedded_servers import SeaweedFS, Valkey
from infra.local.harness import Process, Simulator, catalogue_toml, cpu_s, simulator_process, worker_process
from jobs.foundation.settings import Settings
from jobs.wiring import Domain

TENANT = "bench"


@dataclass
class Bench:
    """The servers and workers of one benchmark."""

    domain: Domain
    simulator: Simulator
    valkey: Valkey
    seaweedfs: SeaweedFS
    directory: Path
    workers: list[Process] = field(default_factory=list)

    def worker(self, *, concurrency: int, queues: str = "edits") -> Process:
        """Start a worker process and wait until it is ready."""
        name = f"bench{len(self.workers)}@bench"
        process = worker_process(
            self.domain.settings,
            self.directory / f"{name}.log",
            name,
            queues=queues,
            concurrency=concurrency,
            grace_s=30,
        )
        self.workers.append(process)
        process.wait_until(lambda: any(worker.name == name for worker in self.domain.status.workers()))
        return process

    def cpu(self) -> dict[str, float]:
        """CPU seconds used so far, by part; `bench` is this process: client, API or driver."""
        return {
            "workers": sum(process.cpu_s() for process in self.workers),
            "simulator": cpu_s(self.simulator.pid),
            "seaweedfs": cpu_s(self.seaweedfs.pid),
            "valkey": cpu_s(self.valkey.pid),
            "bench": time.process_time(),
        }


@contextmanager
def open_bench(*, limits: Mapping[str, object] | None = None, **knobs: object) -> Iterator[Bench]:
    """Start the servers and a simulator; `limits` configure the model's catalogue entry, `knobs` the simulator."""
    with (
        tempfile.TemporaryDirectory(prefix="retouch-bench-") as folder,
        Valkey(Path(folder)) as valkey,
        SeaweedFS(Path(folder)) as seaweedfs,
        simulator_process(**knobs) as simulator,
    ):
        directory = Path(folder)
        os.environ["AWS_ACCESS_KEY_ID"] = seaweedfs.access_key
        os.environ["AWS_SECRET_ACCESS_KEY"] = seaweedfs.secret_key
        config = directory / "retouch.toml"
        config.write_text(catalogue_toml(simulator, **(limits or {})))
        settings = Settings(
            redis_url=SecretStr(valkey.url),
            broker_url=SecretStr(valkey.url_of(1)),
            s3_endpoint_url=seaweedfs.endpoint_url,
            s3_bucket=seaweedfs.bucket,
            allow_private_addresses="127.0.0.0/8",
            config=config,
            log_level="WARNING",
        )
        domain = Domain.open(settings)
        domain.planner.register_models()
        domain.tenants.ensure(TENANT)
        bench = Bench(domain, simulator, valkey, seaweedfs, directory)
        try:
            yield bench
        finally:
            for process in bench.workers:
                process.close()
            domain.close()


def photograph(kilobytes: int = 500) -> bytes:
    """A JPEG of about this size, from a photograph that scikit-image contains."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("scikit-image is not installed: pip install 'retouch[local]'")
    picture = Image.open(Path(spec.submodule_search_locations[0]) / "data" / "coffee.png").convert("RGB")
    side = 600
    while True:
        side += 100
        buffer = BytesIO()
        picture.resize((side * 3 // 2, side)).save(buffer, "JPEG", quality=95)
        if buffer.tell() >= kilobytes * 1000:
            return buffer.getvalue()


def until(condition: Callable[[], object], timeout_s: float) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: the condition is not true after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition is not true after {timeout_s:g} s")
        time.sleep(0.05)


def median_and_p95(values: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile of some values, in the unit of the values."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


def row(name: str, *cells: object) -> None:
    """Print one line of a benchmark's table."""
    print(f"  {name:<44}" + "".join(f"{cell!s:>16}" for cell in cells))  # noqa: T201 - the output of the benchmark
