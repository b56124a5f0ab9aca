"""Request bodies: Standard Webhooks' `{"type", "timestamp", "data"}`, where `data` is the object as the API shows it.

A body is rendered once, at the fan-out: every attempt sends the same bytes.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError

from jobs.events.outbox import JOB_DIGEST, Event
from jobs.foundation.ids import batch_of
from jobs.foundation.redis_keys import Keys
from jobs.foundation.values import moment
from jobs.records.job_codec import decode_job
from jobs.storage.bucket import Bucket
from jobs.webhooks.digests import Digest

URL_LIVES_S = 7 * 86_400
"""Lifetime of an output's URL in an event, in seconds: the maximum of S3 signatures."""

Renderer = Callable[[Event], Any]
"""Makes an event's `data`: any JSON value."""

_BatchFields = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]
"""A batch's defaults, and the fields that its approval changed."""

log = structlog.get_logger(__name__)


class Bodies:
    """Renders the bodies of events. `register` adds a renderer for another kind of event.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        bucket: presigns the URLs of outputs.
    """

    def __init__(self, redis: Redis, keys: Keys, bucket: Bucket) -> None:
        self._redis = redis
        self._keys = keys
        self._bucket = bucket
        self._renderers: dict[str, Renderer] = {"job": self._job}

    def register(self, kind: str, renderer: Renderer) -> None:
        """Use `renderer` for the data of all events whose type is `kind` or starts with `kind` and a dot."""
        self._renderers[kind] = renderer

    def render(self, event: Event) -> str:
        """An event's body."""
        return _body(event.type, event.at, self.data(event))

    def data(self, event: Event) -> Any:
        """An event's data; only the subject's id if the renderer fails."""
        renderer = self._renderers.get(event.type.partition(".")[0], _raw_data)
        return _or_only_id(event.subject, lambda: renderer(event))

    def render_digest(self, digest: Digest) -> str:
        """The body of a digest: each event has its usual form, with the job in its current state."""
        batch_fields = self._batch_fields(digest.batch_id)
        pipe = self._redis.pipeline(transaction=False)
        for item in digest.items:
            pipe.hgetall(self._keys.job(item["job"]))
        events = []
        for item, record in zip(digest.items, pipe.execute(), strict=True):
            data = _or_only_id(item["job"], partial(self._job_data, item["job"], record, batch_fields))
            timestamp = _timestamp(moment(item["at"]))
            events.append({"id": item["id"], "type": item["type"], "timestamp": timestamp, "data": data})
        return _body(JOB_DIGEST, digest.at, {"batch_id": digest.batch_id, "events": events})

    def _job(self, event: Event) -> Any:
        batch_id = batch_of(event.subject)
        batch_fields = self._batch_fields(batch_id) if batch_id else (None, None)
        return self._job_data(event.subject, json.loads(event.data), batch_fields)

    def _batch_fields(self, batch_id: str) -> _BatchFields:
        texts: Any = self._redis.hmget(self._keys.batch(batch_id), ["defaults", "changes"])
        defaults, changes = (json.loads(text) if text else None for text in texts)
        return defaults, changes

    def _job_data(self, job_id: str, record: Mapping[str, str], batch_fields: _BatchFields) -> Any:
        if not record:
            return {"id": job_id}
        defaults, changes = batch_fields
        if changes and self._redis.hget(record["lane"], "trial") == "1":
            changes = None  # an approval does not change the jobs of the trial before it
        job = decode_job(job_id, "", record, defaults, changes)
        if job.output is not None:
            output = job.output
            job = job.with_output_url(self._bucket.presign_get(output.bucket, output.key, expires_s=URL_LIVES_S))
        return job.model_dump(mode="json")


def _body(event_type: str, at: datetime, data: Any) -> str:
    """A body in canonical form. It is ASCII, so that every program reads the same bytes."""
    return json.dumps({"type": event_type, "timestamp": _timestamp(at), "data": data}, separators=(",", ":"))


def _timestamp(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _or_only_id(subject: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except RedisError:
        raise
    except Exception:
        log.exception("events.not_rendered", subject=subject)
        return {"id": subject}


def _raw_data(event: Event) -> Any:
    return json.loads(event.data)
