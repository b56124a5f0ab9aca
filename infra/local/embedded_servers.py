"""Valkey and SeaweedFS as embedded servers: their configuration, start and readiness check.

Both come from wheels of the extra `local` and listen only on 127.0.0.1. `retouch up` runs their programs under its
supervisor. Tests and benchmarks run them directly:

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
# The servers would take keys, buckets and settings from other variables of the user.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TZ")


class Server(ABC):
    """An embedded server: its configuration on disk and at most one process.

    The process ends when the thread that called `start` ends.

    Attributes:
        directory: directory of its data, configuration and log.
    """

    name: str
    grace_s: float

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def program(self) -> Program:
        """The program to run after `prepare`."""

    @abstractmethod
    def prepare(self) -> None:
        """Write the configuration.

        Raises:
            StackError: its wheel is not installed.
            OSError: the directory is not writable.
        """

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether the server is ready."""

    @property
    def log(self) -> Path:
        """Log file of a server that `start` runs."""
        return self.directory / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Id of the running process.

        Raises:
            StackError: the server is not running.
        """
        if self._process is None or self._process.poll() is not None:
            raise StackError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server without waiting; `wait_ready` waits until it answers."""
        if self._process is not None and self._process.poll() is None:
            raise StackError(f"{self.name} is already running (pid {self._process.pid})")
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
        """Wait until the server is ready.

        Raises:
            StackError: the server ended, or was not ready in time. The error contains the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if self._process is None or self._process.poll() is not None:
                raise StackError(f"{self.name} ended while starting", log=tail(self.log))
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} was not ready within {timeout_s:g} s", log=tail(self.log))
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Stop the server by SIGTERM, and by SIGKILL after the grace period. Does nothing if it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(self.grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Stop the server by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self, timeout_s: float = 30) -> None:
        """Stop the server if it runs, start it with the same data and ports, and wait until it is ready."""
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
    """Valkey, configured to answer a write only after it is on disk.

    Args:
        directory: parent of the data directory `valkey/`.
        port: 0 chooses a free port, which stays the same over restarts of this object.
        password: "" generates one.
    """

    name = "valkey"
    grace_s = 30

    def __init__(self, directory: Path, *, port: int = 0, password: str = "") -> None:
        super().__init__(directory / "valkey")
        self.port = port or Ports().choose("redis")
        self.password = password or Credentials().redis_password

    @property
    def url(self) -> str:
        """URL of database 0, with the password."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """Return the URL of a database by its number, with the password."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def program(self) -> Program:
        """`valkey-server` with the configuration file that `prepare` writes."""
        command = (str(valkey_server()), str(self.directory / "valkey.conf"))
        return Program(
            self.name, command, mimalloc(), inherit=_INHERITED, directory=self.directory, grace_s=self.grace_s
        )

    def prepare(self) -> None:
        """Write `valkey.conf` with mode 0600, because it contains the password."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # No snapshots: the append-only file already contains all data.
        # No path here: it would need Valkey's quoting. `Program.directory` sets the working directory.
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
        no_retry = Retry(NoBackoff(), 0)
        return redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2, retry=no_retry)

    def is_ready(self) -> bool:
        """Return whether PING succeeds; it fails while Valkey loads its data."""
        try:
            return bool(self._client.ping())
        except redis.RedisError:
            return False


class SeaweedFS(Server):
    """SeaweedFS with its S3 gateway in one process (`weed mini`), with one bucket.

    Args:
        directory: parent of the data directory `seaweedfs/`.
        port: port of S3; 0 chooses a free one, which stays the same over restarts of this object.
        access_key, secret_key: credentials of the only identity; "" generates them.
        bucket: created at the start if it does not exist.
        ports: chooses the internal ports; None chooses any free ports.
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
        generated = Credentials()
        self.access_key = access_key or generated.s3_access_key
        self.secret_key = secret_key or generated.s3_secret_key
        self.bucket = bucket
        ports = ports or Ports()
        self.port = port or ports.choose("s3")
        self._internal_ports = {
            f"{part}.port{kind}": ports.choose(f"seaweedfs-{part}{kind}")
            for part in ("master", "volume", "filer")
            for kind in ("", ".grpc")
        }
        self._internal_ports["s3.port.grpc"] = ports.choose("seaweedfs-s3.grpc")
        # Its maintenance worker ignores -admin.port.grpc and connects to the twin of the admin port (4.48).
        self._internal_ports["admin.port"] = ports.choose("seaweedfs-admin", twin=True)

    @property
    def endpoint_url(self) -> str:
        """S3 endpoint; clients must use path-style addressing."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def program(self) -> Program:
        """`weed mini` with our ports and without its optional services."""
        # SeaweedFS ignores TMPDIR for sockets and would create them in /tmp.
        sockets = socket_directory(self.directory)
        flags = {
            "dir": self.directory / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "bucket": self.bucket,
            "s3.config": self.directory / "s3.json",
            "s3.port": self.port,
            **self._internal_ports,
            "s3.autoCreateBucket": "false",
            "s3.localSocket": sockets / "s3.sock",
            "filer.localSocket": sockets / "filer.sock",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "volume.preStopSeconds": 0,  # a delay for other servers; there are none
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
        }
        return Program(
            self.name,
            (weed(), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in flags.items())),
            # HOME and the working directory: it must not read *.toml files of the user.
            # At 16 concurrent puts of 0.5 MB, these GC settings use 280 MB instead of 390 MB, at the same CPU time.
            environment={"HOME": str(self.directory), "GOGC": "50", "GOMEMLIMIT": "512MiB"},
            inherit=_INHERITED,
            directory=self.directory,
            grace_s=self.grace_s,
        )

    def prepare(self) -> None:
        """Write `s3.json` with mode 0600, because it contains the credentials."""
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        # `weed mini` stores the flags of its last start here and would apply flags that we no longer pass.
        (data / "mini.options").unlink(missing_ok=True)
        identity = {
            "name": "retouch",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        write_private(self.directory / "s3.json", json.dumps({"identities": [identity]}))

    def stop(self) -> None:
        """Stop the server and remove its sockets."""
        super().stop()
        self.remove_sockets()

    def remove_sockets(self) -> None:
        """Remove the sockets that a killed server leaves. No flag can move some of them out of /tmp (4.48)."""
        ports = {name.split(".")[0]: port for name, port in self._internal_ports.items() if name.endswith("grpc")}
        for part, port in (ports | {"admin": self._internal_ports["admin.port"] + TWIN}).items():
            Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108
        shutil.rmtree(socket_directory(self.directory))

    @cached_property
    def client(self) -> "S3Client":
        """A boto3 client with short timeouts and no retries, for readiness checks and tests."""
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
        """Return whether the bucket accepts an object. It exists before there is a volume to write to."""
        try:
            self.client.head_bucket(Bucket=self.bucket)
            self.client.put_object(Bucket=self.bucket, Key=".ready", Body=b"")
            self.client.delete_object(Bucket=self.bucket, Key=".ready")
        except (BotoCoreError, ClientError):
            return False
        return True


def socket_directory(data: Path) -> Path:
    """Create a directory for the unix sockets of a data directory, whose path may exceed the limit of 108 bytes.

    A data directory always gets the same path, so the next run can remove the sockets of a killed process.

    Raises:
        StackError: the directory exists and belongs to another user.
    """
    digest = hashlib.sha256(os.fsencode(data.absolute())).hexdigest()[:12]
    directory = Path(tempfile.gettempdir()) / f"retouch-{os.getuid()}-{digest}"
    directory.mkdir(mode=0o700, exist_ok=True)
    state = directory.lstat()
    if state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise StackError(f"{directory} must belong to you and have mode 0700: remove it")
    return directory
