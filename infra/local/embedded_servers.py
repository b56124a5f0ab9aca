"""Valkey and SeaweedFS as embedded servers: how each is configured, run and awaited.

Both come from wheels of the extra `local` and listen on 127.0.0.1 alone. `retouch up` gives their programs to its
supervisor; tests and benchmarks run them themselves:

    with Valkey(directory) as valkey, SeaweedFS(directory) as store:
        redis.Redis.from_url(valkey.url)
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import boto3
import redis
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.local.bundled_binaries import mimalloc, valkey_server, weed
from infra.local.credentials import Credentials
from infra.local.ports import TWIN, Ports
from infra.local.program import Program, StackError, tail, write_private

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
_POLL_S = 0.05
# A server started with a user's whole environment would take keys, buckets and settings from it.
_PLAIN = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TZ")


class Server(ABC):
    """An embedded server: a configuration on disk and at most one process.

    The process ends when the thread that called `start` does, so call it from one that stays.

    Attributes:
        directory: holds its data, configuration and log.
    """

    name: str
    grace_s: float

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def program(self) -> Program:
        """The process to run, once `prepare` has been called."""

    @abstractmethod
    def prepare(self) -> None:
        """Write the configuration.

        Raises:
            StackError: its wheel is not installed.
            OSError: the directory cannot be written.
        """

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it does its work now."""

    @property
    def log(self) -> Path:
        """Where its output goes when it is run by `start`."""
        return self.directory / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Of the running process.

        Raises:
            StackError: it does not run.
        """
        if self._process is None or self._process.poll() is not None:
            raise StackError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Run it; `wait_ready` tells when it answers."""
        if self._process is not None and self._process.poll() is None:
            raise StackError(f"{self.name} is running already (pid {self._process.pid})")
        self.prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self.program.tethered(self.directory),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def wait_ready(self, timeout_s: float = 30) -> None:
        """Return when it is ready.

        Raises:
            StackError: it ended, or was not ready in time; with the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if self._process is None or self._process.poll() is not None:
                raise StackError(f"{self.name} ended while starting", log=tail(self.log))
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} was not ready within {timeout_s:g} s", log=tail(self.log))
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End it by SIGTERM, and by SIGKILL when its grace is over; nothing where it does not run."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(self.grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self, timeout_s: float = 30) -> None:
        """Start it again on the same data and ports, after a stop where it still runs, and wait until it is ready."""
        self.stop()
        self.start()
        self.wait_ready(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Valkey(Server):
    """Valkey that answers a write only when it is on disk.

    Args:
        directory: `valkey/` under it holds the data.
        port: 0 chooses a free one, kept over restarts of this object.
        password: "" makes one.
    """

    name = "valkey"
    grace_s = 30

    def __init__(self, directory: Path, *, port: int = 0, password: str = "") -> None:
        super().__init__(directory / "valkey")
        self.port = port or Ports().choose("redis")
        self.password = password or Credentials().redis_password

    @property
    def url(self) -> str:
        """Of database 0, password included."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """Of a database by its number, password included."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def program(self) -> Program:
        """`valkey-server` with our configuration file."""
        command = (str(valkey_server()), str(self.directory / "valkey.conf"))
        return Program(self.name, command, mimalloc(), inherit=_PLAIN, directory=self.directory, grace_s=self.grace_s)

    def prepare(self) -> None:
        """Write `valkey.conf`, which holds the password, with mode 0600."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # The append-only file alone keeps the data: a snapshot beside it would fork and write for nothing.
        # The working directory is the program's; a path in this file would need Valkey's quoting.
        settings = (
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            "daemonize no",
            "appendonly yes",
            "appendfsync always",
            'save ""',
            "maxmemory 0",
            "maxmemory-policy noeviction",
            "always-show-logo no",
        )
        write_private(self.directory / "valkey.conf", "\n".join(settings) + "\n")

    @cached_property
    def _client(self) -> redis.Redis:
        once = Retry(NoBackoff(), 0)
        return redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2, retry=once)

    def is_ready(self) -> bool:
        """Whether PING is answered; not while it still loads its file."""
        try:
            return bool(self._client.ping())
        except redis.RedisError:
            return False


class SeaweedFS(Server):
    """SeaweedFS's S3 gateway and what it needs, in one process (`weed mini`), with one bucket.

    Args:
        directory: `seaweedfs/` under it holds the data.
        port: of S3; 0 chooses a free one, kept over restarts of this object.
        access_key, secret_key: the one identity; "" makes them.
        bucket: made at the start where it does not exist.
        ports: chooses the inner ports; fresh ones unless given.
    """

    name = "seaweedfs"
    grace_s = 15

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        access_key: str = "",
        secret_key: str = "",
        bucket: str = "retouch",
        ports: Ports | None = None,
    ) -> None:
        super().__init__(directory / "seaweedfs")
        made = Credentials()
        self.access_key = access_key or made.s3_access_key
        self.secret_key = secret_key or made.s3_secret_key
        self.bucket = bucket
        chosen = ports or Ports()
        self.port = port or chosen.choose("s3")
        self._inner = {
            f"{part}.port{kind}": chosen.choose(f"seaweedfs-{part}{kind}")
            for part in ("master", "volume", "filer")
            for kind in ("", ".grpc")
        }
        self._inner["s3.port.grpc"] = chosen.choose("seaweedfs-s3.grpc")
        # Its maintenance worker looks for the admin server's gRPC at the twin whatever -admin.port.grpc says (4.48).
        self._inner["admin.port"] = chosen.choose("seaweedfs-admin", twin=True)

    @property
    def endpoint_url(self) -> str:
        """Of S3, to be addressed by path style."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def program(self) -> Program:
        """`weed mini` with every port moved and everything but S3 left out."""
        # TMPDIR is not obeyed for sockets: they would lie in /tmp under a name made from the port.
        sockets = socket_directory(self.directory)
        flags = {
            "dir": self.directory / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "bucket": self.bucket,
            "s3.config": self.directory / "s3.json",
            "s3.port": self.port,
            **self._inner,
            "s3.autoCreateBucket": "false",
            "s3.localSocket": sockets / "s3.sock",
            "filer.localSocket": sockets / "filer.sock",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "volume.preStopSeconds": 0,  # for other servers to notice, and there is none
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
        }
        return Program(
            self.name,
            (weed(), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in flags.items())),
            # It reads ~/.seaweedfs/*.toml and security.toml where it runs: neither may be a user's own.
            # Go's collector left alone took 390 MB at 16 puts of 0.5 MB at once, so 280 MB, in no more CPU time.
            environment={"HOME": str(self.directory), "GOGC": "50", "GOMEMLIMIT": "512MiB"},
            inherit=_PLAIN,
            directory=self.directory,
            grace_s=self.grace_s,
        )

    def prepare(self) -> None:
        """Write `s3.json`, which holds the identity, with mode 0600."""
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        # `weed mini` keeps the flags of its last start here and would take up again one that we no longer give.
        (data / "mini.options").unlink(missing_ok=True)
        identity = {
            "name": "retouch",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        write_private(self.directory / "s3.json", json.dumps({"identities": [identity]}))

    def stop(self) -> None:
        """End it, and clear up after it."""
        super().stop()
        self.remove_sockets()

    def remove_sockets(self) -> None:
        """Remove what a killed one leaves: its sockets, some in /tmp, from where no flag can move them (4.48)."""
        ports = {name.split(".")[0]: port for name, port in self._inner.items() if name.endswith("grpc")}
        for part, port in (ports | {"admin": self._inner["admin.port"] + TWIN}).items():
            Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108
        shutil.rmtree(socket_directory(self.directory))

    @cached_property
    def client(self) -> "S3Client":
        """A boto3 client of it that fails fast: for probes and tests, not for work."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=2,
                read_timeout=5,
                retries={"total_max_attempts": 1},
                proxies={},
            ),
        )

    def is_ready(self) -> bool:
        """Whether the bucket takes an object: it exists before there is a volume to write to."""
        try:
            self.client.head_bucket(Bucket=self.bucket)
            self.client.put_object(Bucket=self.bucket, Key=".ready", Body=b"")
            self.client.delete_object(Bucket=self.bucket, Key=".ready")
        except (BotoCoreError, ClientError):
            return False
        return True


def socket_directory(data: Path) -> Path:
    """A directory for the unix sockets of a data directory, whose own path may be too long for one (108 bytes).

    Always the same for the same data directory, so that what a killed process left behind is found again.

    Raises:
        StackError: it exists and belongs to another user.
    """
    digest = hashlib.sha256(os.fsencode(data.absolute())).hexdigest()[:12]
    directory = Path(tempfile.gettempdir()) / f"retouch-{os.getuid()}-{digest}"
    directory.mkdir(mode=0o700, exist_ok=True)
    state = directory.lstat()
    if state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise StackError(f"{directory} must belong to you alone (mode 0700): remove it")
    return directory
