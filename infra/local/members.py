"""The processes of `retouch up`: which there are, what each is told, and when each is ready."""

import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx
import redis

from infra.local.credentials import Credentials, load_credentials
from infra.local.embedded_servers import REGION, SeaweedFS, Valkey
from infra.local.ports import Ports
from infra.local.program import Program, StackError, write_private
from jobs.foundation.errors import ConfigurationError
from jobs.foundation.redis_keys import Keys
from jobs.foundation.settings import load_settings

BASE, WORKERS, DOORS = "base", "workers", "doors"
STAGES = (BASE, WORKERS, DOORS)
"""Start order; the stop goes backwards, so that the doors close before the workers drain."""
EDIT_QUEUES = "edits"
OTHER_WORKERS = {"webhooks": "webhooks", "batches": "ingest"}
"""Queues with a worker process of their own, by the process's name, beside those that edit."""
INGEST_THREADS = 4
"""Manifests that are read at a time: each takes some ten megabytes."""
LOOPBACK = "127.0.0.0/8,::1/128"
SIMULATOR_KEY = "sim-key"
DRAIN_S = 60
"""What a worker may take for the jobs it holds when it is told to stop."""

_MARGIN_S = 10
_API_GRACE_S = 40  # longer than the longest `Prefer: wait`
_FLOWER_GRACE_S = 20
_MAX_PORT = 65535
# Of the user's own account; with our keys beside them boto3 would sign wrongly or look elsewhere.
_FOREIGN = ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_SIMULATED_CATALOGUE = """\
# Written by `retouch up`, which runs the simulator since there is no STEP_API_KEY. A retouch.toml of your own in the
# working directory, or --config, takes the place of this file.
default_model = "step-image-edit-2"

[models.step-image-edit-2]
dialect = "stepfun"
base_url = "{base_url}"
api_key_env = "STEP_API_KEY"
concurrency = 64
rpm = 0
"""


@dataclass(frozen=True)
class UpOptions:
    """What `retouch up` is told.

    Attributes:
        data_dir: keeps everything between runs.
        port: of the API; never moved.
        workers: processes that edit.
        concurrency: edits in flight of one such process.
        config: a `retouch.toml`; None takes `RETOUCH_CONFIG`, then `./retouch.toml`, then one that is generated.
        flower: whether Flower runs.
        redis_port, s3_port, flower_port, simulator_port: 0 takes the port of the last run if free, else any.
        simulator_arguments: further arguments of `python -m infra.simulator`.
    """

    data_dir: Path = Path(".retouch")
    port: int = 8000
    workers: int = 1
    concurrency: int = 64
    config: Path | None = None
    flower: bool = True
    redis_port: int = 0
    s3_port: int = 0
    flower_port: int = 0
    simulator_port: int = 0
    simulator_arguments: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            StackError: with status 2, naming the option.
        """
        for name in ("redis_port", "s3_port", "flower_port", "simulator_port"):
            if not 0 <= getattr(self, name) <= _MAX_PORT:
                raise StackError(f"--{name.replace('_', '-')} must be between 0 and {_MAX_PORT}", status=2)
        if not 1 <= self.port <= _MAX_PORT:
            raise StackError(f"--port must be between 1 and {_MAX_PORT}", status=2)
        for name in ("workers", "concurrency"):
            if getattr(self, name) < 1:
                raise StackError(f"--{name} must be at least 1", status=2)
        if self.config is not None and not self.config.is_file():
            raise StackError(f"--config: there is no file {self.config}", status=2)


@dataclass(frozen=True)
class Member:
    """One process of the stack.

    Attributes:
        program: what to run.
        stage: with which it starts and stops.
        is_ready: asks whether it does its work now; never raises for one that does not yet.
    """

    program: Program
    stage: str
    is_ready: Callable[[], bool]


class Members:
    """All processes of one stack: ports, credentials and environment decided, files not yet written.

    Args:
        options: as given by the user.
        environment: the user's, that decides whether the simulator runs.

    Raises:
        StackError: a port is taken, a wheel is missing, kept files cannot be read.
        OSError: the data directory cannot be read or written.
    """

    def __init__(self, options: UpOptions, environment: Mapping[str, str] = os.environ) -> None:
        self.options = options
        self.directory = options.data_dir.absolute()
        self._environment = environment
        self._run = secrets.token_hex(3)
        self.credentials: Credentials = load_credentials(self.directory / "secrets.json")
        ports = Ports(self.directory / "ports.json")
        self.port = ports.choose("api", options.port, flag="--port")
        redis_port = ports.choose("redis", options.redis_port, flag="--redis-port")
        s3_port = ports.choose("s3", options.s3_port, flag="--s3-port")
        self.flower_port = ports.choose("flower", options.flower_port, flag="--flower-port")
        self.simulator_port = ports.choose("simulator", options.simulator_port, flag="--simulator-port")
        self.valkey = Valkey(self.directory, port=redis_port, password=self.credentials.redis_password)
        self.store = SeaweedFS(
            self.directory,
            port=s3_port,
            access_key=self.credentials.s3_access_key,
            secret_key=self.credentials.s3_secret_key,
            ports=ports,
        )
        self.redis = redis.Redis.from_url(self.valkey.url, decode_responses=True, socket_timeout=5)
        try:
            self.settings = load_settings()
        except ConfigurationError as error:
            raise StackError(str(error), status=2) from error
        self.keys = Keys(self.settings.key_prefix)
        self._http = httpx.Client(trust_env=False, timeout=2)  # a proxy has no business on loopback
        self.all: tuple[Member, ...] = tuple(self._members())
        ports.save()

    @cached_property
    def catalogue(self) -> Path | None:
        """The user's own `retouch.toml`; None where there is none."""
        named = self.options.config or self._environment.get("RETOUCH_CONFIG")
        if named:
            return Path(named).absolute()
        here = Path("retouch.toml").absolute()
        return here if here.is_file() else None

    @property
    def simulates(self) -> bool:
        """Whether edits go to the simulator: nobody configured another endpoint."""
        return self.catalogue is None and not self._environment.get("STEP_API_KEY")

    @property
    def endpoint(self) -> str:
        """Where edits go, in words."""
        if self.simulates:
            return f"the simulator at {self.simulator_url} (set STEP_API_KEY for the real endpoint)"
        return f"the models of {self.catalogue}" if self.catalogue else "the real endpoint, with STEP_API_KEY"

    @property
    def url(self) -> str:
        """Of the API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def flower_url(self) -> str:
        """Of Flower."""
        return f"http://127.0.0.1:{self.flower_port}"

    @property
    def simulator_url(self) -> str:
        """Of the simulator's host; its endpoint is below /v1."""
        return f"http://127.0.0.1:{self.simulator_port}"

    @property
    def flower_auth(self) -> str:
        """Flower's user and password, as basic auth wants them."""
        return f"{self.credentials.flower_user}:{self.credentials.flower_password}"

    def close(self) -> None:
        """Let go of every connection."""
        self._http.close()
        self.redis.close()

    def write_files(self) -> None:
        """Write what the processes read: the servers' configuration, and the simulated catalogue if it is used."""
        self.valkey.prepare()
        self.store.prepare()
        if self.simulates:
            text = _SIMULATED_CATALOGUE.format(base_url=f"{self.simulator_url}/v1")
            write_private(self.directory / "retouch.toml", text)

    def local_env(self, api_key: str) -> str:
        """What `local.env` says, one KEY=VALUE a line; no value needs quoting."""
        values = {
            "RETOUCH_URL": self.url,
            "RETOUCH_API_KEY": api_key,
            "RETOUCH_REDIS_URL": self.valkey.url,
            "RETOUCH_BROKER_URL": self.valkey.url_of(1),
            "RETOUCH_S3_ENDPOINT_URL": self.store.endpoint_url,
            "RETOUCH_S3_BUCKET": self.store.bucket,
            "AWS_ACCESS_KEY_ID": self.store.access_key,
            "AWS_SECRET_ACCESS_KEY": self.store.secret_key,
        }
        catalogue = self.directory / "retouch.toml" if self.simulates else self.catalogue
        if catalogue is not None:
            values["RETOUCH_CONFIG"] = str(catalogue)
        if self.options.flower:
            values |= {"FLOWER_URL": self.flower_url, "FLOWER_BASIC_AUTH": self.flower_auth}
        if self.simulates:
            values["RETOUCH_SIMULATOR_URL"] = self.simulator_url
        return "".join(f"{name}={value}\n" for name, value in values.items())

    def _answers(self, url: str) -> Callable[[], bool]:
        def ask() -> bool:
            try:
                return self._http.get(url).status_code == httpx.codes.OK
            except httpx.HTTPError:
                return False

        return ask

    def _pulses(self, worker: str) -> Callable[[], bool]:
        def ask() -> bool:
            try:
                return bool(self.redis.exists(self.keys.worker(worker)))
            except redis.RedisError:
                return False

        return ask

    def _members(self) -> list[Member]:
        members = [
            Member(self.valkey.program, BASE, self.valkey.is_ready),
            Member(self.store.program, BASE, self.store.is_ready),
        ]
        address = ("--host", "127.0.0.1", "--port")
        if self.simulates:
            port = str(self.simulator_port)
            program = Program(
                "simulator",
                (sys.executable, "-m", "infra.simulator", *address, port, *self.options.simulator_arguments),
                environment={"PYTHONUNBUFFERED": "1"},
                grace_s=_MARGIN_S,
            )
            members.append(Member(program, BASE, self._answers(f"{self.simulator_url}/livez")))

        key = {"STEP_API_KEY": SIMULATOR_KEY} if self.simulates else {}
        queues = {f"worker-{number}": EDIT_QUEUES for number in range(1, self.options.workers + 1)} | OTHER_WORKERS
        for name, queue in queues.items():
            threads = {EDIT_QUEUES: self.options.concurrency, "ingest": INGEST_THREADS}.get(queue)
            limit = ("--concurrency", str(threads)) if threads else ()
            # New in each run: what a killed run's worker said of itself outlives it for a while.
            known_as = f"{name}-{self._run}@{socket.gethostname()}"
            # Any free port for its metrics, which its log names: of one for all only the first could be served.
            told = ("--name", known_as, "--grace", str(DRAIN_S), "--metrics-port", "0")
            command = ("worker", "--queues", queue, *told, *limit)
            program = self._retouch(name, command, DRAIN_S + _MARGIN_S, key)
            members.append(Member(program, WORKERS, self._pulses(known_as)))

        program = self._retouch("api", ("api", *address, str(self.port)), _API_GRACE_S)
        members.append(Member(program, DOORS, self._answers(f"{self.url}/readyz")))
        if self.options.flower:
            environment = {
                "FLOWER_BASIC_AUTH": self.flower_auth,
                "FLOWER_ADDRESS": "127.0.0.1",
                "FLOWER_PORT": str(self.flower_port),
                "FLOWER_DB": str(self.directory / "flower" / "seen"),
            }
            program = self._retouch("flower", ("flower",), _FLOWER_GRACE_S, environment)
            members.append(Member(program, DOORS, self._answers(f"{self.flower_url}/healthcheck")))
        return members

    def _retouch(
        self, name: str, arguments: tuple[str, ...], grace_s: float, environment: Mapping[str, str] | None = None
    ) -> Program:
        command = (sys.executable, "-m", "retouch", *arguments)
        told = {**self._shared_environment, **(environment or {})}
        return Program(name, command, environment=told, without=_FOREIGN, grace_s=grace_s)

    @cached_property
    def _shared_environment(self) -> dict[str, str]:
        """What every process of Retouch itself is told; the user's other `RETOUCH_` variables are inherited."""
        catalogue = self.directory / "retouch.toml" if self.simulates else self.catalogue
        no_proxy = ",".join(filter(None, (self._environment.get("NO_PROXY"), "127.0.0.1,localhost")))
        return {
            "RETOUCH_REDIS_URL": self.valkey.url,
            "RETOUCH_BROKER_URL": self.valkey.url_of(1),
            "RETOUCH_S3_ENDPOINT_URL": self.store.endpoint_url,
            "RETOUCH_S3_BUCKET": self.store.bucket,
            "RETOUCH_S3_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.store.access_key,
            "AWS_SECRET_ACCESS_KEY": self.store.secret_key,
            "RETOUCH_PUBLIC_URL": self.url,
            "RETOUCH_ALLOW_PRIVATE_ADDRESSES": _with_loopback(
                self._environment.get("RETOUCH_ALLOW_PRIVATE_ADDRESSES", "false")
            ),
            "FLOWER_URL": self.flower_url if self.options.flower else "",
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "PYTHONUNBUFFERED": "1",
        } | ({"RETOUCH_CONFIG": str(catalogue)} if catalogue else {})


def _with_loopback(allowed: str) -> str:
    word = allowed.strip().lower()
    if word in {"true", "1", "yes"}:
        return allowed
    return LOOPBACK if word in {"", "false", "0", "no"} else f"{allowed},{LOOPBACK}"
