"""What `retouch doctor` looks at. Each check asks one part for real and says what it found and what to do about it."""

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
from jobs.queueing.broker import CHORES, EDITS, WEBHOOKS
from jobs.storage.bucket import Bucket
from jobs.storage.errors import FOREIGN, Kind, fault_of
from jobs.wiring import Domain

Level = Literal["ok", "warning", "fault"]
OLDEST = (7, 2)
"""Of Redis and Valkey."""
FULL, NEARLY_FULL = 0.95, 0.8
MOST_OFF_S = 10.0
"""Receivers take a webhook's timestamp within 5 minutes, and stores a signature within 15; a clock that is as wrong as
this is kept by nobody and goes on drifting."""
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at.
        level: `warning` works and could be better; `fault` does not work, or will lose something.
        said: what was found.
        advice: what to do about it; "" where there is nothing to do.
    """

    check: str
    level: Level
    said: str
    advice: str = ""


@dataclass(frozen=True)
class Ground:
    """What the checks work with.

    Attributes:
        settings: of the stack that is looked at.
        domain: over them.
        now: this machine's clock, in seconds since 1970.
    """

    settings: Settings
    domain: Domain
    now: Callable[[], float] = time.time


Findings = Iterator[Finding]


def redis_of(url: str) -> Redis:
    """A client that fails soon."""
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_connect_timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def addresses(settings: Settings) -> Findings:
    """Those of Redis and the broker that cannot be read: nothing can be asked before they are right.

    They are not shown, nor what the parser says of them: half of a password with a slash in it is taken for a port.
    """
    try:
        redis_of(settings.redis_url.get_secret_value()).close()
    except ValueError:
        yield _unreadable("redis", "RETOUCH_REDIS_URL", "redis://:PASSWORD@HOST:6379/0")
    if settings.broker_url is None:
        return
    url = settings.broker_url.get_secret_value()
    try:
        # Celery takes what has no scheme for the host of a RabbitMQ.
        if "://" not in url:
            raise ValueError
        Connection(url).get_transport_cls()
    except (ValueError, KeyError, ImportError):
        forms = "redis://:PASSWORD@HOST:6379/1 or amqp://USER:PASSWORD@HOST:5672//"
        yield _unreadable("broker", "RETOUCH_BROKER_URL", forms)


def _unreadable(check: str, variable: str, form: str) -> Finding:
    advice = f"write {form}, and in a password %2F for /, %3A for :, %40 for @, %23 for # and %3F for ?"
    return Finding(check, "fault", f"{variable} is no address that can be read", advice)


def store(ground: Ground) -> Findings:
    """Redis: its version, whether it keeps what it was told, whether it may throw keys away, and its memory."""
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
    if numbers < OLDEST:
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
        return Finding(check, "fault", "the last write of the append-only file failed", "see its disk and its log")
    try:
        found: Any = redis.config_get("appendfsync")
        fsync = found.get("appendfsync", "unknown")
    except Exception:  # noqa: BLE001 - managed services refuse CONFIG; then nobody can say
        fsync = "unknown"
    if fsync != "always":
        return Finding(
            check,
            "warning",
            f"append-only file, appendfsync {fsync}: a machine that fails may lose the last second of accepted jobs",
            "set `appendfsync always` if none may be lost",
        )
    return Finding(check, "ok", "append-only file, appendfsync always")


def _eviction(check: str, info: dict[str, Any]) -> Finding:
    policy = info["maxmemory_policy"]
    if policy != "noeviction":
        return Finding(
            check,
            "fault",
            f"maxmemory-policy is {policy}: when memory is short, jobs are thrown away without a word",
            "set `maxmemory-policy noeviction` in its configuration",
        )
    return Finding(check, "ok", "noeviction")


def _memory(info: dict[str, Any]) -> Finding:
    used = int(info["used_memory"])
    limit = int(info["maxmemory"]) or int(info.get("total_system_memory", 0))
    part = used / limit if limit else 0.0
    said = f"{used / 1e6:,.0f} MB of {limit / 1e6:,.0f} MB" if limit else f"{used / 1e6:,.0f} MB"
    if part >= NEARLY_FULL:
        advice = "raise maxmemory, or lower RETOUCH_RETENTION_DAYS so that ended jobs leave sooner"
        return Finding("redis memory", "fault" if part >= FULL else "warning", said, advice)
    return Finding("redis memory", "ok", said)


def broker(ground: Ground) -> Findings:
    """Celery's broker, where it is not the same Redis."""
    ground.domain.broker.check()
    url = ground.settings.broker
    first = urlsplit(url.split(";")[0])  # of several servers that stand in for each other
    yield Finding("broker", "ok", f"{first.scheme} at {first.hostname}:{first.port or ''}")
    if first.scheme in {"redis", "rediss"}:
        with redis_of(url) as redis, redis_of(ground.settings.redis_url.get_secret_value()) as records:
            info: dict[str, Any] = redis.info("everything")
            if info["run_id"] != records.info("server")["run_id"]:
                yield _eviction("broker eviction", info)


_ADVICE: dict[Kind, str] = {
    "credentials": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that the store knows, and see the clocks",
    "unknown_bucket": "create the bucket, or set RETOUCH_S3_BUCKET to one that is there",
    "forbidden": "allow this key to read, write, delete and list in the bucket (s3:GetObject, s3:PutObject, "
    "s3:DeleteObject, s3:ListBucket)",
    "trouble": "see that the store runs and that RETOUCH_S3_ENDPOINT_URL is its address",
}


def bucket(ground: Ground) -> Findings:
    """The bucket: put, get, presign, delete; and the store's clock on the way."""
    settings = ground.settings
    held = Bucket(settings, connect_timeout_s=TIMEOUT_S, read_timeout_s=TIMEOUT_S)
    name, key, data = settings.s3_bucket, f"retouch-doctor/{token_hex(8)}", token_hex(32).encode()
    place = f"s3://{name} at {settings.s3_endpoint_url or 'AWS'}"
    step = "list"
    try:
        next(held.list_keys(name, "retouch-doctor/", page=1), None)  # a HEAD could not say why it was refused
        step = "put"
        held.put(name, key, data, media_type="application/octet-stream")
        step = "get"
        if held.get(name, key, max_bytes=1024) != data:
            said = f"{place} gave back other bytes than it was given"
            yield Finding("bucket get", "fault", said, "see the store's log")
        step = "presign"
        yield from _presigned(ground, held.presign_get(name, key, expires_s=60), data)
        step = "delete"
        held.delete(name, key)
        yield Finding("bucket", "ok", f"{place}: put, get and delete work")
    except RetouchError as error:
        fault = fault_of(error.__cause__) if isinstance(error.__cause__, FOREIGN) else None
        kind: Kind = fault.kind if fault else "trouble"
        yield Finding(f"bucket {step}", "fault", f"{place}: {error}", _ADVICE.get(kind, _ADVICE["trouble"]))
    finally:
        held.close()


def _presigned(ground: Ground, url: str, data: bytes) -> Findings:
    began = ground.now()
    try:
        answer = httpx.get(url, timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as error:
        public = ground.settings.s3_public_endpoint_url
        advice = "links to results begin with RETOUCH_S3_ENDPOINT_URL: users must be able to reach it"
        if public:
            advice = f"links to results begin with {public}: see from a user's machine that it is reached"
        # Users may be where this command is not.
        level: Level = "warning" if public else "fault"
        yield Finding("bucket presign", level, f"a presigned link cannot be fetched from here: {error}", advice)
        return
    if answer.content != data:
        advice = "see the store's clock, and whether a proxy before it changes requests"
        yield Finding("bucket presign", "fault", f"a presigned link answers {answer.status_code}", advice)
    else:
        yield Finding("bucket presign", "ok", "a presigned link can be fetched")
    told = answer.headers.get("date")
    if told:
        # Whole seconds: the half that is missing on average is added.
        theirs = parsedate_to_datetime(told).timestamp() + 0.5
        yield _clock("store's clock", (began + ground.now()) / 2 - theirs, "the store's machine")


def workers(ground: Ground) -> Findings:
    """Live workers for each queue, and their clocks."""
    found = ground.domain.status.workers()
    taking = [worker for worker in found if not worker.draining]
    editing = [worker for worker in taking if EDITS in worker.queues]
    if not editing:
        yield Finding(
            "workers",
            "fault",
            "no worker takes edits: jobs are accepted and wait",
            "start one: `retouch worker --queues edits`, with the same RETOUCH_REDIS_URL and RETOUCH_KEY_PREFIX",
        )
    else:
        slots = sum(worker.slots for worker in editing)
        yield Finding("workers", "ok", f"{len(editing)} for edits, with {slots} threads")
    for queue, missed in ((WEBHOOKS, "nobody is told of anything"), (CHORES, "manifests are not read")):
        if not any(queue in worker.queues for worker in taking):
            advice = f"start one: `retouch worker --queues {queue}`"
            yield Finding(f"workers for {queue}", "warning", f"there is none: {missed}", advice)
    now = ground.domain.stats.now_ms() / 1000
    for worker in found:
        # What it said is as old as its last pulse: at most a lease.
        ahead = worker.seen_at.timestamp() - now
        if ahead > MOST_OFF_S or ahead < -ground.settings.lease_s - MOST_OFF_S:
            yield _clock(f"clock of {worker.name}", ahead, f"the machine {worker.host}")


def models(ground: Ground) -> Findings:
    """Whether each model may start jobs."""
    for model in ground.domain.status.models():
        check = f"model {model.name}"
        if not model.parked:
            yield Finding(check, "ok", f"window {model.window}, {model.in_flight} in flight, {model.queued} queued")
            continue
        if model.parked_until is None:
            advice = "an operator parked it: release it when it shall go on"
        else:
            advice = (
                f"see the key, the balance and the address of {model.name}; nothing is lost, and it is tried again by "
                f"itself at {model.parked_until:%H:%M:%S} UTC"
            )
        yield Finding(check, "fault", f"parked ({model.parked_code}): {model.parked_reason}", advice)


def clocks(ground: Ground) -> Findings:
    """This machine's clock against Redis's."""
    began = ground.now()
    theirs = ground.domain.stats.now_ms() / 1000
    yield _clock("clock", (began + ground.now()) / 2 - theirs, "this machine, or of Redis's")


def _clock(check: str, ahead_s: float, whose: str) -> Finding:
    said = f"{abs(ahead_s):.1f} s {'ahead' if ahead_s > 0 else 'behind'}"
    if abs(ahead_s) > MOST_OFF_S:
        return Finding(check, "fault", said, f"keep the clock of {whose} by NTP (`timedatectl set-ntp true`)")
    return Finding(check, "ok", said)


CHECKS: tuple[tuple[str, Callable[[Ground], Findings], str], ...] = (
    ("redis", store, "see that Redis runs and that RETOUCH_REDIS_URL is its address, password included"),
    ("bucket", bucket, _ADVICE["trouble"]),
    ("broker", broker, "see that the broker runs and that RETOUCH_BROKER_URL is its address"),
    ("workers", workers, "see Redis first"),
    ("models", models, "see Redis first"),
    ("clock", clocks, "see Redis first"),
)
"""Name, check, and what to do where its part does not answer at all."""
