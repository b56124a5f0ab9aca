"""Valkey and SeaweedFS with the configuration of the local stack: real servers on free ports."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import httpx
import pytest
import redis
from botocore.config import Config
from botocore.exceptions import ClientError
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.local.embedded_servers import SeaweedFS, Server, Valkey
from infra.local.ports import Ports
from infra.local.program import StackError
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

IMAGE = b"\x89PNG" + os.urandom(500_000)
WRITERS = 6


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def listening_addresses(pid: int) -> set[str]:
    """Local addresses of a process's listening TCP sockets, in the hexadecimal form of the kernel."""
    sockets = {str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="utf-8").splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:
                addresses.add(columns[1].split(":")[0])
    return addresses


def client_of(valkey: Valkey) -> redis.Redis:
    return redis.Redis.from_url(valkey.url, decode_responses=True)


def client_with(store: SeaweedFS, secret_key: str) -> "S3Client":
    """A client with a long timeout: concurrent writers of one key wait for each other in steps of a second."""
    return boto3.client(
        "s3",
        endpoint_url=store.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=store.access_key,
        aws_secret_access_key=secret_key,
        config=Config(s3={"addressing_style": "path"}, proxies={}, read_timeout=90, retries={"total_max_attempts": 1}),
    )


def put_status(store: SeaweedFS, key: str, body: bytes, client: "S3Client | None" = None, **condition: str) -> int:
    try:
        answer = (client or store.client).put_object(
            Bucket=store.bucket,
            Key=key,
            Body=body,
            **condition,  # type: ignore[arg-type]
        )
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def get(store: SeaweedFS, key: str) -> bytes:
    return store.client.get_object(Bucket=store.bucket, Key=key)["Body"].read()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.mark.parametrize("stop", [Server.kill, Server.stop])
def test_an_acknowledged_write_survives_a_stop_or_kill_of_valkey(
    valkey: Valkey, stop: Callable[[Server], None]
) -> None:
    client = client_of(valkey)
    for number in range(500):
        client.rpush("list", number)
    old_pid = valkey.pid
    stop(valkey)
    valkey.restart()
    assert valkey.pid != old_pid
    assert client.lrange("list", 0, -1) == [str(number) for number in range(500)]


def test_valkey_writes_to_disk_always_and_never_evicts(valkey: Valkey) -> None:
    expected = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
    assert client_of(valkey).config_get(*expected) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="mimalloc is used only on Linux")
def test_valkey_uses_mimalloc(valkey: Valkey) -> None:
    mapped = Path(f"/proc/{valkey.pid}/maps").read_text(encoding="utf-8")
    assert "libmimalloc.so" in mapped
    assert "cannot be preloaded" not in valkey.log.read_text(encoding="utf-8")


def test_valkey_requires_the_password(valkey: Valkey) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=valkey.port, retry=Retry(NoBackoff(), 0)).ping()


def test_only_the_owner_can_read_the_secrets(valkey: Valkey, store: SeaweedFS) -> None:
    for path in (valkey.directory / "valkey.conf", store.directory / "s3.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_start_on_a_used_port_fails_with_the_log_of_the_server(valkey: Valkey, tmp_path: Path) -> None:
    with (
        pytest.raises(StackError, match="valkey ended while starting") as caught,
        Valkey(tmp_path / "other", port=valkey.port, password="another"),
    ):
        pytest.fail("two servers on one port")
    assert "Address already in use" in caught.value.log


def test_a_server_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = (
        "import sys; from pathlib import Path; from infra.local.embedded_servers import Valkey\n"
        "with Valkey(Path(sys.argv[1])) as server: print(server.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", parent, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert runs(pid)
        process.send_signal(signal.SIGKILL)
    eventually(lambda: not runs(pid), what="the end of an orphaned server")


def test_every_port_listens_only_on_loopback(valkey: Valkey, store: SeaweedFS) -> None:
    loopback = {"0100007F"}
    assert listening_addresses(valkey.pid) == loopback
    assert listening_addresses(store.pid) == loopback


def test_an_object_keeps_its_bytes_type_and_metadata(store: SeaweedFS) -> None:
    metadata = {"job-id": "01J", "model": "step-image-edit-2", "seed": "7"}
    store.client.put_object(
        Bucket=store.bucket, Key="out/a b+ü.png", Body=IMAGE, ContentType="image/png", Metadata=metadata
    )
    stored = store.client.get_object(Bucket=store.bucket, Key="out/a b+ü.png")
    assert (stored["Body"].read(), stored["ContentType"], stored["Metadata"]) == (IMAGE, "image/png", metadata)


def test_a_presigned_url_gives_access_to_one_object_only(store: SeaweedFS) -> None:
    store.client.put_object(Bucket=store.bucket, Key="signed", Body=IMAGE, ContentType="image/png")
    url = store.client.generate_presigned_url(
        "get_object", Params={"Bucket": store.bucket, "Key": "signed"}, ExpiresIn=60
    )
    answer = httpx.get(url, trust_env=False, timeout=60)
    assert (answer.status_code, answer.content) == (200, IMAGE)
    assert httpx.get(url.split("?")[0], trust_env=False, timeout=60).status_code == 403
    assert httpx.get(url.replace("signed?", "other?"), trust_env=False, timeout=60).status_code == 403


def test_a_wrong_secret_key_is_rejected(store: SeaweedFS) -> None:
    stranger = client_with(store, "wrong")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stranger.list_objects_v2(Bucket=store.bucket)


def test_only_one_of_many_concurrent_first_writers_succeeds(store: SeaweedFS) -> None:
    statuses = compete(store, "first", {"IfNoneMatch": "*"})
    assert sorted(statuses.values()) == [200] + [412] * (WRITERS - 1)
    winner = next(body for body, status in statuses.items() if status == 200)
    assert get(store, "first") == winner


def test_only_one_of_many_concurrent_overwrites_of_a_version_succeeds(store: SeaweedFS) -> None:
    etag = store.client.put_object(Bucket=store.bucket, Key="next", Body=b"old")["ETag"]
    statuses = compete(store, "next", {"IfMatch": etag})
    assert sorted(statuses.values()) == [200] + [412] * (WRITERS - 1)
    assert put_status(store, "next", b"late", IfMatch=etag) == 412
    assert put_status(store, "absent", b"late", IfMatch=etag) in {404, 412}


def compete(store: SeaweedFS, key: str, condition: dict[str, str]) -> dict[bytes, int]:
    """Run concurrent conditional puts of one key; returns the status of each by its body."""
    client = client_with(store, store.secret_key)
    barrier = threading.Barrier(WRITERS)
    statuses: dict[bytes, int] = {}

    def put(body: bytes) -> None:
        barrier.wait()
        statuses[body] = put_status(store, key, body, client, **condition)

    threads = [threading.Thread(target=put, args=(bytes([number]) * 5_000,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def test_objects_survive_a_killed_store(store: SeaweedFS) -> None:
    for number in range(20):
        assert put_status(store, f"kept/{number}", IMAGE[number:]) == 200
    store.kill()
    store.restart()

    def all_read() -> bool:
        try:
            return all(get(store, f"kept/{number}") == IMAGE[number:] for number in range(20))
        except ClientError:
            return False

    # The store takes new objects before its volume server has announced the volumes of the old ones.
    eventually(all_read, what="every object is read again")


def test_objects_survive_a_change_of_ports_and_secret(tmp_path: Path) -> None:
    with SeaweedFS(tmp_path) as first:
        assert put_status(first, "kept", IMAGE) == 200
    with SeaweedFS(tmp_path) as second:
        assert second.port != first.port
        assert second.secret_key != first.secret_key
        assert put_status(second, "new", IMAGE[1:]) == 200
        assert (get(second, "kept"), get(second, "new")) == (IMAGE, IMAGE[1:])


def test_a_chosen_port_is_reused_if_it_is_free(tmp_path: Path, valkey: Valkey) -> None:
    first = Ports(tmp_path / "ports.json")
    port = first.choose("redis")
    first.save()
    assert Ports(tmp_path / "ports.json").choose("redis") == port
    (tmp_path / "ports.json").write_text(f'{{"redis": {valkey.port}}}')
    assert Ports(tmp_path / "ports.json").choose("redis") != valkey.port


def test_the_error_for_a_used_port_names_the_port_and_the_flag(valkey: Valkey) -> None:
    with pytest.raises(StackError, match=rf"port {valkey.port} is in use.*--redis-port"):
        Ports().choose("redis", valkey.port, flag="--redis-port")
