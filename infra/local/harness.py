"""Starts single Retouch processes and simulators for tests and benchmarks.

`retouch up` runs the whole stack under a supervisor. Processes started here are never restarted.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jobs.foundation.settings import Settings

MODEL = "step-image-edit-2"
KEY = "sim-key"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process:
    """A process and its log file.

    Args:
        command: program and arguments.
        log: file for its output.
        environment: its complete environment.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self._file = log.open("ab")
        self.popen = subprocess.Popen(  # noqa: S603 - our own commands
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=self._file, stderr=subprocess.STDOUT
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self.popen.pid

    def cpu_s(self) -> float:
        """CPU seconds used so far, user and system (proc(5))."""
        return cpu_s(self.pid)

    def rss_mb(self) -> float:
        """Resident memory in MB."""
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * _PAGE / 1e6

    def wait_until(self, condition: Callable[[], object], timeout_s: float = 120) -> None:
        """Wait until a condition is true.

        Raises:
            RuntimeError: the process ended, or the timeout is over. The message contains the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.popen.args!r} is not ready:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Send SIGKILL and wait until the process has ended."""
        self.popen.kill()
        self.popen.wait()

    def close(self, grace_s: float = 5) -> None:
        """Stop the process by SIGTERM, and by SIGKILL after the grace period."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.kill()
        self._file.close()


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, user and system (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def simulator_process(**knobs: object) -> Iterator["Simulator"]:
    """Run a simulator; the keyword arguments set fields of `infra.simulator.Knobs`."""
    flags = []
    for name, value in knobs.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [flag, str(value)]
    command = [sys.executable, "-m", "infra.simulator", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    try:
        line = process.stdout.readline() if process.stdout else ""
        if " on http" not in line:
            raise RuntimeError(f"the simulator did not start: {line!r}")
        yield Simulator(line.split(" on ")[1].strip(), process.pid)
    finally:
        process.terminate()
        process.wait(10)


class Simulator(str):
    """The origin of a running simulator, with its pid."""

    __slots__ = ("pid",)
    pid: int

    def __new__(cls, origin: str, pid: int) -> "Simulator":
        """Create it from an origin such as `http://127.0.0.1:8100`."""
        simulator = super().__new__(cls, origin)
        simulator.pid = pid
        return simulator


def catalogue_toml(origin: str, **changes: object) -> str:
    """Return a `retouch.toml` whose default model uses a simulator; `changes` set entries of the model."""
    values: dict[str, object] = {
        "dialect": "stepfun",
        "base_url": f"{origin}/v1",
        "api_key_env": "STEP_API_KEY",
        "concurrency": 64,
        "rpm": 0,
        "timeout_s": 20,
        **changes,
    }
    lines = [f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}" for name, value in values.items()]
    return f'default_model = "{MODEL}"\n[models.{MODEL}]\n' + "\n".join(lines) + "\n"


def environment_of(settings: Settings, **more: str) -> dict[str, str]:
    """Return environment variables that give a process these settings."""
    variables = {
        "RETOUCH_REDIS_URL": settings.redis_url.get_secret_value(),
        "RETOUCH_BROKER_URL": settings.broker,
        "RETOUCH_KEY_PREFIX": settings.key_prefix,
        "RETOUCH_S3_ENDPOINT_URL": settings.s3_endpoint_url or "",
        "RETOUCH_S3_BUCKET": settings.s3_bucket,
        "RETOUCH_ALLOW_PRIVATE_ADDRESSES": settings.allow_private_addresses,
        "RETOUCH_PUBLIC_URL": settings.public_url,
        "RETOUCH_LEASE_S": str(settings.lease_s),
        "RETOUCH_LOG_FORMAT": "json",
        "STEP_API_KEY": KEY,
    }
    if settings.config:
        variables["RETOUCH_CONFIG"] = str(settings.config)
    return {**os.environ, **variables, **more}


def worker_process(
    settings: Settings, log: Path, name: str, *, queues: str, concurrency: int, grace_s: float, **environment: str
) -> Process:
    """Start a `retouch worker`."""
    command = [sys.executable, "-m", "retouch", "worker", "--queues", queues, "--name", name]
    command += ["--concurrency", str(concurrency), "--grace", str(grace_s)]
    return Process(command, log, environment_of(settings, **environment))


def api_process(settings: Settings, log: Path, port: int) -> Process:
    """Start a `retouch api` on loopback."""
    command = [sys.executable, "-m", "retouch", "api", "--host", "127.0.0.1", "--port", str(port)]
    return Process(command, log, environment_of(settings))
