"""What is sent: Standard Webhooks' `{"type", "timestamp", "data"}`, `data` being the object as the API shows it.

A body is made once, when an event is fanned out: every try sends the same bytes.
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
from jobs.records.job_codec import decode_job, moment
from jobs.storage.bucket import Bucket
from jobs.webhooks.digests import Digest

URL_LIVES_S = 7 * 86_400
"""How long an output's URL in an event can be fetched: as long as S3's signatures can live."""

Renderer = Callable[[Event], Any]
"""Makes an event's `data`: anything that JSON holds."""

_Shared = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]
"""What a batch's jobs share, and what its approval changed."""

log = structlog.get_logger(__name__)


class Bodies:
    """Makes the bodies of events; `register` adds the renderers of further kinds.

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
        """Let `renderer` make the data of all events whose type begins with `kind` and a dot, or is `kind`."""
        self._renderers[kind] = renderer

    def render(self, event: Event) -> str:
        """An event's body."""
        return _body(event.type, event.at, self.data(event))

    def data(self, event: Event) -> Any:
        """An event's data. One that cannot be made is told all the same, by the subject's id alone."""
        renderer = self._renderers.get(event.type.partition(".")[0], _as_it_is)
        return _or_id_alone(event.subject, lambda: renderer(event))

    def render_digest(self, digest: Digest) -> str:
        """The body of a digest: each event as it would have been told alone, its job as it is now."""
        shared = self._shared(digest.batch_id)
        pipe = self._redis.pipeline(transaction=False)
        for item in digest.items:
            pipe.hgetall(self._keys.job(item["job"]))
        events = []
        for item, record in zip(digest.items, pipe.execute(), strict=True):
            data = _or_id_alone(item["job"], partial(self._shown, item["job"], record, shared))
            timestamp = _timestamp(moment(item["at"]))
            events.append({"id": item["id"], "type": item["type"], "timestamp": timestamp, "data": data})
        return _body(JOB_DIGEST, digest.at, {"batch_id": digest.batch_id, "events": events})

    def _job(self, event: Event) -> Any:
        batch_id = batch_of(event.subject)
        shared = self._shared(batch_id) if batch_id else (None, None)
        return self._shown(event.subject, json.loads(event.data), shared)

    def _shared(self, batch_id: str) -> _Shared:
        texts: Any = self._redis.hmget(self._keys.batch(batch_id), ["defaults", "changes"])
        defaults, changes = (json.loads(text) if text else None for text in texts)
        return defaults, changes

    def _shown(self, job_id: str, record: Mapping[str, str], shared: _Shared) -> Any:
        if not record:
            return {"id": job_id}
        defaults, changes = shared
        if changes and self._redis.hget(record["lane"], "trial") == "1":
            changes = None  # what an approval changed does not hold for the trial before it
        job = decode_job(job_id, "", record, defaults, changes)
        if job.output is not None:
            output = job.output
            job = job.with_output_url(self._bucket.presign_get(output.bucket, output.key, expires_s=URL_LIVES_S))
        return job.model_dump(mode="json")


def _body(event_type: str, at: datetime, data: Any) -> str:
    """A body in its one form. ASCII: no two programs read it as different bytes."""
    return json.dumps({"type": event_type, "timestamp": _timestamp(at), "data": data}, separators=(",", ":"))


def _timestamp(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _or_id_alone(subject: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except RedisError:
        raise
    except Exception:
        log.exception("events.not_rendered", subject=subject)
        return {"id": subject}


def _as_it_is(event: Event) -> Any:
    return json.loads(event.data)
