"""The checks of `retouch doctor`. Each check tests one part of the stack and returns findings with an advice."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from secrets import token_hex
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from kombu import Connection
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobs.foundation.errors import RetouchError
from jobs.foundation.settings import Settings
from jobs.queueing.celery_app import BACKGROUND, EDITS, WEBHOOKS
from jobs.storage.bucket import Bucket
from jobs.storage.errors import FOREIGN, Kind, fault_of
from jobs.wiring import Domain

Level = Literal["ok", "warning", "fault"]
MIN_VERSION = (7, 2)
"""Oldest supported version of Redis; all versions of Valkey are newer."""
FULL, NEARLY_FULL = 0.95, 0.8
"""Shares of the memory limit: a fault from `FULL` on, a warning from `NEARLY_FULL` on."""
MAX_CLOCK_OFFSET_S = 10.0
"""A clock with a larger offset is probably not synchronized and keeps drifting. Receivers accept a webhook's timestamp
within 5 minutes, and S3 stores accept a signature within 15 minutes."""
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: name of the check.
        level: `warning`: the part works but can be improved; `fault`: it does not work, or will lose data.
        message: message for the user.
        advice: how to correct it; "" if nothing is wrong.
    """

    check: str
    level: Level
    message: str
    advice: str = ""


@dataclass(frozen=True)
class Ground:
    """The context of the checks.

    Attributes:
        settings: settings of the stack.
        domain: domain opened with these settings.
        now: returns this machine's time in seconds since 1970.
    """

    settings: Settings
    domain: Domain
    now: Callable[[], float] = time.time


Findings = Iterator[Finding]


def redis_of(url: str) -> Redis:
    """Return a client with short timeouts and no retries."""
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_connect_timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def check_urls(settings: Settings) -> Findings:
    """Report invalid URLs of Redis and of the broker; without valid URLs, no other check can run.

    The findings contain neither the URL nor the error of the parser, because both can contain parts of a password.
    """
    try:
        redis_of(settings.redis_url.get_secret_value()).close()
    except ValueError:
        yield _invalid_url("redis", "RETOUCH_REDIS_URL", "redis://:PASSWORD@HOST:6379/0")
    if settings.broker_url is None:
        return
    url = settings.broker_url.get_secret_value()
    try:
        # Celery treats a URL without a scheme as the host of a RabbitMQ server.
        if "://" not in url:
            raise ValueError
        Connection(url).get_transport_cls()
    except (ValueError, KeyError, ImportError):
        forms = "redis://:PASSWORD@HOST:6379/1 or amqp://USER:PASSWORD@HOST:5672//"
        yield _invalid_url("broker", "RETOUCH_BROKER_URL", forms)


def _invalid_url(check: str, variable: str, form: str) -> Finding:
    advice = f"write {form}; in a password, write %2F for /, %3A for :, %40 for @, %23 for # and %3F for ?"
    return Finding(check, "fault", f"{variable} is not a valid URL", advice)


def store(ground: Ground) -> Findings:
    """Check the version, the persistence, the eviction policy and the memory of Redis."""
    with redis_of(ground.settings.redis_url.get_secret_value()) as redis:
        info: dict[str, Any] = redis.info("everything")
        yield _version(info)
        yield _persistence(redis, info)
        yield _eviction("redis eviction", info)
        yield _memory(info)


def _version(info: dict[str, Any]) -> Finding:
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info["redis_version"])
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers < MIN_VERSION:
        return Finding("redis version", "fault", f"{name} {version}", "use Redis 7.2 or newer, or Valkey")
    return Finding("redis version", "ok", f"{name} {version}")


def _persistence(redis: Redis, info: dict[str, Any]) -> Finding:
    check = "redis persistence"
    if not info["aof_enabled"]:
        return Finding(
            check,
            "fault",
            "the append-only file is off: a restart of Redis loses accepted jobs",
            "set `appendonly yes` and `appendfsync always` in its configuration",
        )
    if info.get("aof_last_write_status") != "ok":
        return Finding(
            check, "fault", "the last write of the append-only file failed", "check the disk and the log of Redis"
        )
    try:
        config: Any = redis.config_get("appendfsync")
        fsync = config.get("appendfsync", "unknown")
    except Exception:  # noqa: BLE001 - managed services reject CONFIG
        fsync = "unknown"
    if fsync != "always":
        return Finding(
            check,
            "warning",
            f"append-only file, appendfsync {fsync}: a machine failure can lose the jobs of the last second",
            "set `appendfsync always` if no accepted job may be lost",
        )
    return Finding(check, "ok", "append-only file, appendfsync always")


def _eviction(check: str, info: dict[str, Any]) -> Finding:
    policy = info["maxmemory_policy"]
    if policy != "noeviction":
        return Finding(
            check,
            "fault",
            f"maxmemory-policy is {policy}: when memory is full, Redis silently deletes jobs",
            "set `maxmemory-policy noeviction` in its configuration",
        )
    return Finding(check, "ok", "noeviction")


def _memory(info: dict[str, Any]) -> Finding:
    used = int(info["used_memory"])
    limit = int(info["maxmemory"]) or int(info.get("total_system_memory", 0))
    share = used / limit if limit else 0.0
    message = f"{used / 1e6:,.0f} MB of {limit / 1e6:,.0f} MB" if limit else f"{used / 1e6:,.0f} MB"
    if share >= NEARLY_FULL:
        advice = "raise maxmemory, or lower RETOUCH_RETENTION_DAYS so that ended jobs are deleted sooner"
        return Finding("redis memory", "fault" if share >= FULL else "warning", message, advice)
    return Finding("redis memory", "ok", message)


def broker(ground: Ground) -> Findings:
    """Check Celery's broker, and its eviction policy if it is another Redis."""
    ground.domain.publisher.check()
    url = ground.settings.broker
    first = urlsplit(url.split(";")[0])  # the first of several failover servers
    yield Finding("broker", "ok", f"{first.scheme} at {first.hostname}:{first.port or ''}")
    if first.scheme in {"redis", "rediss"}:
        with redis_of(url) as redis, redis_of(ground.settings.redis_url.get_secret_value()) as records:
            info: dict[str, Any] = redis.info("everything")
            if info["run_id"] != records.info("server")["run_id"]:
                yield _eviction("broker eviction", info)


_ADVICE: dict[Kind, str] = {
    "credentials": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to valid credentials, and check the clocks",
    "unknown_bucket": "create the bucket, or set RETOUCH_S3_BUCKET to an existing one",
    "forbidden": "allow this key to read, write, delete and list in the bucket (s3:GetObject, s3:PutObject, "
    "s3:DeleteObject, s3:ListBucket)",
    "trouble": "check that the store runs and that RETOUCH_S3_ENDPOINT_URL is its URL",
}


def bucket(ground: Ground) -> Findings:
    """Check put, get, presign and delete in the bucket, and the clock of the store."""
    settings = ground.settings
    client = Bucket(settings, connect_timeout_s=TIMEOUT_S, read_timeout_s=TIMEOUT_S)
    name, key, data = settings.s3_bucket, f"retouch-doctor/{token_hex(8)}", token_hex(32).encode()
    location = f"s3://{name} at {settings.s3_endpoint_url or 'AWS'}"
    step = "list"
    try:
        next(
            client.list_keys(name, "retouch-doctor/", page=1), None
        )  # the answer to a HEAD does not contain the reason of an error
        step = "put"
        client.put(name, key, data, media_type="application/octet-stream")
        step = "get"
        if client.get(name, key, max_bytes=1024) != data:
            message = f"{location} returned other bytes than were stored"
            yield Finding("bucket get", "fault", message, "check the log of the store")
        step = "presign"
        yield from _presigned(ground, client.presign_get(name, key, expires_s=60), data)
        step = "delete"
        client.delete(name, key)
        yield Finding("bucket", "ok", f"{location}: put, get and delete work")
    except RetouchError as error:
        fault = fault_of(error.__cause__) if isinstance(error.__cause__, FOREIGN) else None
        kind: Kind = fault.kind if fault else "trouble"
        yield Finding(f"bucket {step}", "fault", f"{location}: {error}", _ADVICE.get(kind, _ADVICE["trouble"]))
    finally:
        client.close()


def _presigned(ground: Ground, url: str, data: bytes) -> Findings:
    started_at = ground.now()
    try:
        answer = httpx.get(url, timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        public = ground.settings.s3_public_endpoint_url
        advice = "links to results begin with RETOUCH_S3_ENDPOINT_URL, which users must be able to reach"
        if public:
            advice = f"links to results begin with {public}: check that a user's machine can reach it"
        # Users can be in another network than this command.
        level: Level = "warning" if public else "fault"
        yield Finding("bucket presign", level, f"this machine cannot fetch a presigned link: {error}", advice)
        return
    if answer.content != data:
        advice = "check the store's clock, and whether a proxy changes the requests"
        yield Finding("bucket presign", "fault", f"a presigned link returns {answer.status_code}", advice)
    else:
        yield Finding("bucket presign", "ok", "a presigned link works")
    date = answer.headers.get("date")
    if date:
        # The header has whole seconds: add the average of the missing fraction.
        store_time = parsedate_to_datetime(date).timestamp() + 0.5
        yield _clock("store's clock", (started_at + ground.now()) / 2 - store_time, "the store's machine")


def workers(ground: Ground) -> Findings:
    """Check that each queue has a live worker, and check the clocks of the workers."""
    live = ground.domain.status.workers()
    active = [worker for worker in live if not worker.draining]
    editing = [worker for worker in active if EDITS in worker.queues]
    if not editing:
        yield Finding(
            "workers",
            "fault",
            "no worker takes edits: jobs are accepted and wait",
            "start one: `retouch worker --queues edits`, with the same RETOUCH_REDIS_URL and RETOUCH_KEY_PREFIX",
        )
    else:
        slots = sum(worker.slots for worker in editing)
        yield Finding("workers", "ok", f"{len(editing)} workers for edits, with {slots} threads")
    for queue, effect in ((WEBHOOKS, "webhooks are not delivered"), (BACKGROUND, "manifests are not read")):
        if not any(queue in worker.queues for worker in active):
            advice = f"start one: `retouch worker --queues {queue}`"
            yield Finding(f"workers for {queue}", "warning", f"there is none: {effect}", advice)
    now = ground.domain.stats.now_ms() / 1000
    for worker in live:
        # The time is from the worker's last heartbeat, at most one lease ago.
        ahead = worker.seen_at.timestamp() - now
        if ahead > MAX_CLOCK_OFFSET_S or ahead < -ground.settings.lease_s - MAX_CLOCK_OFFSET_S:
            yield _clock(f"clock of {worker.name}", ahead, f"the machine {worker.host}")


def models(ground: Ground) -> Findings:
    """Check that no model is parked."""
    for model in ground.domain.status.models():
        check = f"model {model.name}"
        if not model.parked:
            yield Finding(check, "ok", f"window {model.window}, {model.in_flight} in flight, {model.queued} queued")
            continue
        if model.parked_until is None:
            advice = "an operator parked it: resume it when jobs may start again"
        else:
            advice = (
                f"check the key, the balance and the URL of {model.name}; no job is lost, and the next automatic probe "
                f"starts at {model.parked_until:%H:%M:%S} UTC"
            )
        yield Finding(check, "fault", f"parked ({model.parked_code}): {model.parked_reason}", advice)


def clocks(ground: Ground) -> Findings:
    """Compare this machine's clock with the clock of Redis."""
    started_at = ground.now()
    redis_time = ground.domain.stats.now_ms() / 1000
    yield _clock("clock", (started_at + ground.now()) / 2 - redis_time, "this machine, or of Redis's")


def _clock(check: str, ahead_s: float, machine: str) -> Finding:
    message = f"{abs(ahead_s):.1f} s {'ahead' if ahead_s > 0 else 'behind'}"
    if abs(ahead_s) > MAX_CLOCK_OFFSET_S:
        return Finding(
            check, "fault", message, f"synchronize the clock of {machine} by NTP (`timedatectl set-ntp true`)"
        )
    return Finding(check, "ok", message)


CHECKS: tuple[tuple[str, Callable[[Ground], Findings], str], ...] = (
    ("redis", store, "check that Redis runs and that RETOUCH_REDIS_URL is its URL, with the password"),
    ("bucket", bucket, _ADVICE["trouble"]),
    ("broker", broker, "check that the broker runs and that RETOUCH_BROKER_URL is its URL"),
    ("workers", workers, "check Redis first"),
    ("models", models, "check Redis first"),
    ("clock", clocks, "check Redis first"),
)
"""Name, check, and the advice if the part does not answer."""
