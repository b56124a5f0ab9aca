"""What is sent: Standard Webhooks' `{"type", "timestamp", "data"}`, `data` being the object as the API shows it.

A body is made once, when an event is fanned out: every try sends the same bytes.
"""

import json
from collections.abc import Callable
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError

from jobs.bucket import Bucket
from jobs.encoding import decode_job
from jobs.events import Event
from jobs.ids import batch_of
from jobs.keys import Keys

URL_LIVES_S = 7 * 86_400
"""How long an output's URL in an event can be fetched: as long as S3's signatures can live."""

Renderer = Callable[[Event], Any]
"""Makes an event's `data`: anything that JSON holds."""

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
        return body_of(event.type, event, self.data(event))

    def data(self, event: Event) -> Any:
        """An event's data. One that cannot be made is told all the same, by the subject's id alone."""
        renderer = self._renderers.get(event.type.partition(".")[0], _as_it_is)
        try:
            return renderer(event)
        except RedisError:
            raise
        except Exception:
            log.exception("events.not_rendered", event_id=event.id, type=event.type, subject=event.subject)
            return {"id": event.subject}

    def _job(self, event: Event) -> Any:
        batch_id = batch_of(event.subject)
        text = self._redis.hget(self._keys.batch(batch_id), "defaults") if batch_id else None
        record = json.loads(event.data)
        job = decode_job(event.subject, event.tenant, record, json.loads(str(text)) if text else None)
        if job.output is not None:
            output = job.output
            job = job.with_output_url(self._bucket.presign_get(output.bucket, output.key, expires_s=URL_LIVES_S))
        return job.model_dump(mode="json")


def body_of(event_type: str, event: Event, data: Any) -> str:
    """A body in its one form. ASCII: no two programs read it as different bytes."""
    timestamp = event.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": event_type, "timestamp": timestamp, "data": data}, separators=(",", ":"))


def _as_it_is(event: Event) -> Any:
    return json.loads(event.data)
