"""`retouch up` starts the whole stack and stops all its processes."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import boto3
import httpx
import pytest
import redis
from botocore.config import Config

from infra.local.ports import Ports, is_free
from jobs.foundation.redis_keys import Keys
from jobs.foundation.secret_box import ENCRYPTED_PREFIX
from tests.support.waiting import eventually

READY_S = 150
STOP_S = 90
SECRET_KEY = "a random text of enough characters"


def processes_under(pid: int) -> set[int]:
    """Ids of all running descendants of a process."""
    children: dict[int, set[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, set()).add(int(entry.name))
    descendants, generation = set(), {pid}
    while generation:
        generation = set().union(*(children.get(parent, set()) for parent in generation))
        descendants |= generation
    return descendants


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def user_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("RETOUCH_", "STEP_", "AWS_"))}


class Up:
    """A running `retouch up`.

    Attributes:
        lines: lines of stdout and stderr so far.
    """

    def __init__(self, data_dir: Path, *options: str, port: int = 0, **variables: str) -> None:
        self.data_dir = data_dir
        self.port = port or Ports().choose("api")
        self.lines: list[str] = []
        self._ready = threading.Event()
        command = [sys.executable, "-m", "retouch", "up", "--data-dir", str(data_dir), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**user_environment(), **variables},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if self.lines[-1] == "ready":
                self._ready.set()
        self._ready.set()

    def __enter__(self) -> Self:
        self._ready.wait(READY_S)
        if "ready" not in self.lines:
            self.send(signal.SIGTERM)
            pytest.fail("\n".join(["not ready:", *self.lines]))
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> int:
        """Send a signal, wait, and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(STOP_S)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    @property
    def local_env(self) -> dict[str, str]:
        text = (self.data_dir / "local.env").read_text(encoding="utf-8")
        return dict(line.split("=", 1) for line in text.splitlines())

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.local_env["RETOUCH_REDIS_URL"], decode_responses=True)

    def get(self, path: str) -> httpx.Response:
        local = self.local_env
        headers = {"Authorization": f"Bearer {local['RETOUCH_API_KEY']}"}
        return httpx.get(local["RETOUCH_URL"] + path, headers=headers, trust_env=False, timeout=60)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with Up(tmp_path_factory.mktemp("up") / "data", RETOUCH_SECRET_KEY=SECRET_KEY) as running:
        yield running


def test_every_server_accepts_the_credentials_of_local_env_when_ready(up: Up) -> None:
    local = up.local_env
    assert up.redis.ping()
    store = boto3.client(
        "s3",
        endpoint_url=local["RETOUCH_S3_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=local["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=local["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )
    store.head_bucket(Bucket=local["RETOUCH_S3_BUCKET"])
    assert httpx.get(f"{local['RETOUCH_SIMULATOR_URL']}/livez", trust_env=False, timeout=60).status_code == 200
    assert up.get("/readyz").json()["edit_workers"] == 1
    assert up.get("/v1/models").status_code == 200
    user, password = local["FLOWER_BASIC_AUTH"].split(":")
    assert httpx.get(f"{local['FLOWER_URL']}/api/workers", trust_env=False, timeout=60).status_code == 401
    workers = httpx.get(f"{local['FLOWER_URL']}/api/workers", auth=(user, password), trust_env=False, timeout=60)
    assert workers.status_code == 200


def test_only_the_owner_can_read_the_secrets(up: Up) -> None:
    assert stat.S_IMODE(up.data_dir.stat().st_mode) == 0o700
    for name in ("local.env", "secrets.json"):
        assert stat.S_IMODE((up.data_dir / name).stat().st_mode) == 0o600


def test_the_webhook_secret_of_the_local_tenant_is_encrypted(up: Up) -> None:
    secret = up.redis.hget(Keys("rt:").tenant("local"), "secret")
    assert str(secret).startswith(ENCRYPTED_PREFIX)


def test_a_killed_server_is_restarted_with_its_data(up: Up) -> None:
    up.redis.set("kept", "value")
    old_pid = up.redis.info("server")["process_id"]
    os.kill(old_pid, signal.SIGKILL)

    def restarted() -> bool:
        try:
            return bool(up.redis.info("server")["process_id"] != old_pid)
        except redis.RedisError:
            return False

    eventually(restarted, what="Valkey is restarted")
    assert up.redis.get("kept") == "value"
    eventually(lambda: up.get("/readyz").status_code == 200, what="the API is ready again")
    eventually(
        lambda: any("valkey ended and was restarted" in line for line in up.lines), what="a message about the restart"
    )


def test_a_second_stack_in_the_same_directory_is_rejected(up: Up) -> None:
    other = Up(up.data_dir)
    assert other.wait() == 1
    assert other.lines == [f"retouch up: another `retouch up` (pid {up.process.pid}) uses {up.data_dir}"]
    assert up.get("/livez").status_code == 200


def test_a_used_port_is_reported_in_one_line_with_the_flag(up: Up, tmp_path: Path) -> None:
    other = Up(tmp_path, port=up.port)
    assert other.wait() == 1
    assert other.lines == [f"retouch up: port {up.port} is in use: choose another with --port"]


def test_a_directory_that_is_not_writable_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    other = Up(tmp_path / "file" / "data")
    assert other.wait() == 1
    assert len(other.lines) == 1
    assert other.lines[0].startswith(f"retouch up: cannot write to the data directory {tmp_path / 'file' / 'data'}")


def test_a_signal_stops_all_processes_and_a_new_start_keeps_the_data(tmp_path: Path) -> None:
    with Up(tmp_path / "data", "--no-flower") as first:
        local_env = first.local_env
        first.redis.set("kept", "value")
        assert_stops_everything(first, signal.SIGTERM)
    with Up(tmp_path / "data", "--no-flower", port=first.port) as second:
        assert second.local_env == local_env
        assert second.redis.get("kept") == "value"
        assert second.get("/v1/models").status_code == 200
        assert_stops_everything(second, signal.SIGINT)


def assert_stops_everything(up: Up, number: signal.Signals) -> None:
    running = processes_under(up.process.pid)
    assert len(running) >= 6
    assert up.send(number) == 0
    assert [pid for pid in running if not has_ended(pid)] == []
    assert is_free(up.port)
    assert not (up.data_dir / "local.env").exists()


def test_a_new_start_waits_for_the_processes_of_a_killed_stack(tmp_path: Path) -> None:
    with Up(tmp_path / "data", "--no-flower") as first:
        running = processes_under(first.process.pid)
        local_env = first.local_env
        first.send(signal.SIGKILL)
        with Up(tmp_path / "data", "--no-flower", port=first.port) as second:
            assert [pid for pid in running if not has_ended(pid)] == []
            assert second.local_env == local_env


def test_the_error_for_a_failed_process_has_its_name_and_its_log(tmp_path: Path) -> None:
    broken = tmp_path / "retouch.toml"
    broken.write_text("default_model = 'none'\n")
    up = Up(tmp_path / "data", "--config", str(broken))
    assert up.wait() == 1
    message = next(line for line in up.lines if line.startswith("retouch up: "))
    assert "cannot start" in message
    assert any(line.startswith("  | ") for line in up.lines)
    assert "Traceback" not in "".join(up.lines)
