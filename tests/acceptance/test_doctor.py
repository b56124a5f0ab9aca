"""`retouch doctor` finds faults of real servers and gives advice."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.doctor.checks import Finding
from infra.doctor.report import examine
from infra.local.embedded_servers import SeaweedFS, Valkey
from infra.local.harness import environment_of
from infra.local.ports import Ports
from infra.local.program import write_private
from jobs.foundation.redis_client import connect
from jobs.foundation.redis_keys import Keys
from jobs.foundation.settings import Settings
from tests.support.fleet import Fleet
from tests.support.photographs import photograph
from tests.support.waiting import eventually


def faults(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings if finding.level == "fault"}


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path / "own-valkey") as server:
        yield server


@pytest.fixture
def own_settings(own_valkey: Valkey, make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(redis_url=SecretStr(own_valkey.url), broker_url=SecretStr(own_valkey.url_of(1)))


class StoreWithReader(SeaweedFS):
    """A store with a second identity that may only read and list."""

    reader = ("READER", "reader-secret")

    def prepare(self) -> None:
        super().prepare()
        path = self.directory / "s3.json"
        config = json.loads(path.read_text())
        key, secret = self.reader
        identity = {"name": "reader", "credentials": [{"accessKey": key, "secretKey": secret}]}
        config["identities"].append({**identity, "actions": ["Read", "List"]})
        write_private(path, json.dumps(config))


def test_a_healthy_stack_has_findings_for_every_part_and_no_fault(fleet: Fleet) -> None:
    fleet.worker()
    findings = examine(fleet.domain.settings)
    assert not faults(findings)
    ok = {finding.check for finding in findings if finding.level == "ok"}
    assert {"redis version", "redis persistence", "redis eviction", "redis memory", "broker", "bucket"} < ok
    assert {"bucket presign", "workers", "model step-image-edit-2", "clock", "store's clock"} < ok
    warnings = {finding.check for finding in findings if finding.level == "warning"}
    assert warnings == {"workers for webhooks", "workers for ingest"}
    assert not list(fleet.domain.bucket.list_keys(fleet.domain.settings.s3_bucket, "retouch-doctor/"))


def test_an_eviction_policy_that_deletes_keys_is_a_fault(own_valkey: Valkey, own_settings: Settings) -> None:
    with connect(own_settings) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
    found = faults(examine(own_settings))["redis eviction"]
    assert "allkeys-lru" in found.message
    assert "noeviction" in found.advice


def test_an_eviction_policy_of_the_broker_is_a_fault(
    own_valkey: Valkey, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(broker_url=SecretStr(own_valkey.url))
    with connect(make_settings(redis_url=SecretStr(own_valkey.url))) as redis:
        redis.config_set("maxmemory-policy", "volatile-ttl")
    found = faults(examine(settings))
    assert "redis eviction" not in found
    assert "volatile-ttl" in found["broker eviction"].message


def test_disabled_persistence_is_a_fault(own_valkey: Valkey, own_settings: Settings) -> None:
    with connect(own_settings) as redis:
        redis.config_set("appendonly", "no")
    found = faults(examine(own_settings))["redis persistence"]
    assert "appendonly yes" in found.advice


def test_an_unreachable_redis_is_a_fault_and_the_bucket_is_still_checked(
    make_settings: Callable[..., Settings],
) -> None:
    nowhere = SecretStr(f"redis://127.0.0.1:{Ports().choose('unused')}/0")
    findings = examine(make_settings(redis_url=nowhere, broker_url=nowhere))
    assert {"redis", "broker", "workers", "models", "clock"} <= set(faults(findings))
    assert "RETOUCH_REDIS_URL" in faults(findings)["redis"].advice
    assert any(finding.check == "bucket" and finding.level == "ok" for finding in findings)


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("RETOUCH_REDIS_URL", "localhost:6379"),
        ("RETOUCH_REDIS_URL", "redis://:half/secret@127.0.0.1:6379/0"),
        ("RETOUCH_BROKER_URL", "redis://h:notaport/0"),
        ("RETOUCH_BROKER_URL", "localhost:6379"),
        ("RETOUCH_BROKER_URL", "nothing://h"),
    ],
)
def test_an_invalid_url_is_a_fault_and_its_password_is_not_shown(
    make_settings: Callable[..., Settings], variable: str, url: str
) -> None:
    findings = examine(make_settings(**{variable.removeprefix("RETOUCH_").lower(): SecretStr(url)}))
    (found,) = faults(findings).values()
    assert variable in found.message
    assert "://" in found.advice
    assert "half" not in found.message + found.advice


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_command_reports_an_invalid_url(settings: Settings, arguments: list[str]) -> None:
    environment = {**environment_of(settings), "RETOUCH_REDIS_URL": "localhost:6379"}
    command = [sys.executable, "-m", "retouch", "doctor", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (1, "")
    assert "RETOUCH_REDIS_URL is not a valid URL" in result.stdout
    if arguments:
        assert json.loads(result.stdout)["faulty"] is True


def test_a_queue_with_only_a_draining_worker_is_a_fault(settings: Settings) -> None:
    keys = Keys(settings.key_prefix)
    queues = ["edits", "webhooks", "ingest"]
    worker_info = {"host": "h", "pid": 1, "queues": queues, "slots": 8, "draining": True, "seen_at": time.time()}
    with connect(settings) as redis:
        redis.zadd(keys.workers, {"w@h": (time.time() + 600) * 1000})
        redis.set(keys.worker("w@h"), json.dumps(worker_info))
        not_ok = {finding.check for finding in examine(settings) if finding.level != "ok"}
        redis.delete(keys.workers, keys.worker("w@h"))
    assert {"workers", "workers for webhooks", "workers for ingest"} <= not_ok


def test_an_unreachable_bucket_is_a_fault(make_settings: Callable[..., Settings]) -> None:
    port = Ports().choose("unused")
    found = faults(examine(make_settings(s3_endpoint_url=f"http://127.0.0.1:{port}")))["bucket list"]
    assert "cannot be reached" in found.message
    assert "RETOUCH_S3_ENDPOINT_URL" in found.advice


def test_a_missing_bucket_is_a_fault(make_settings: Callable[..., Settings]) -> None:
    found = faults(examine(make_settings(s3_bucket="no-such-bucket")))["bucket list"]
    assert "RETOUCH_S3_BUCKET" in found.advice


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_wrong_key_is_a_fault(settings: Settings, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "WRONGWRONGWRONG")
    found = faults(examine(settings))["bucket list"]
    assert "credentials" in found.message
    assert "AWS_SECRET_ACCESS_KEY" in found.advice


def test_a_bucket_that_rejects_puts_is_a_fault(
    tmp_path: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with StoreWithReader(tmp_path) as store:
        key, secret = store.reader
        settings = make_settings(s3_endpoint_url=store.endpoint_url, s3_bucket=store.bucket)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        found = faults(examine(settings))
    assert "bucket list" not in found
    assert "refuses" in found["bucket put"].message
    assert "s3:PutObject" in found["bucket put"].advice


def test_a_missing_worker_is_a_fault(settings: Settings) -> None:
    found = faults(examine(settings))["workers"]
    assert "retouch worker" in found.advice


@pytest.mark.parametrize("offset_s", [60, -60])
def test_a_clock_offset_of_a_minute_is_a_fault(settings: Settings, offset_s: int) -> None:
    found = faults(examine(settings, now=lambda: time.time() + offset_s))
    for check in ("clock", "store's clock"):
        assert ("ahead" if offset_s > 0 else "behind") in found[check].message
        assert "NTP" in found[check].advice


def test_a_clock_offset_of_a_worker_is_a_fault(settings: Settings) -> None:
    keys = Keys(settings.key_prefix)
    worker_info = {
        "host": "far",
        "pid": 1,
        "queues": ["edits"],
        "slots": 8,
        "draining": False,
        "seen_at": time.time() + 60,
    }
    with connect(settings) as redis:
        redis.zadd(keys.workers, {"w@far": (time.time() + 600) * 1000})
        redis.set(keys.worker("w@far"), json.dumps(worker_info))
        found = faults(examine(settings))
        redis.delete(keys.workers, keys.worker("w@far"))
    assert "far" in found["clock of w@far"].advice


def test_a_parked_model_is_a_fault_with_its_reason(fleet: Fleet) -> None:
    fleet.worker()
    image = fleet.put_picture(photograph("rocket.jpg").read_bytes(), "in/rocket.jpg")
    fleet.submit(image, "[sim:fail=402] unpaid")
    eventually(lambda: fleet.domain.status.models()[0].parked, what="the model is parked")
    found = faults(examine(fleet.domain.settings))["model step-image-edit-2"]
    assert "402" in found.message or "quota" in found.message
    assert "balance" in found.advice


def test_the_command_prints_each_finding_and_exits_with_1_for_a_fault(fleet: Fleet, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "retouch", "doctor"]
    environment = environment_of(fleet.domain.settings)
    without_worker = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert without_worker.returncode == 1
    assert "no worker takes edits" in without_worker.stdout
    assert "to do: start one" in without_worker.stdout
    fleet.worker()
    result = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stdout
    answer = json.loads(result.stdout)
    assert answer["faulty"] is False
    assert {finding["check"] for finding in answer["data"]} > {"bucket", "workers", "clock"}
