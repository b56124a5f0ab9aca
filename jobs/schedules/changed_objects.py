"""Finds the pictures under a prefix that are new or changed since their last success."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import IO

from redis import Redis

from jobs.batches.commands import Batches
from jobs.batches.ingest import IMAGE_SUFFIXES
from jobs.catalogue.catalogue import Catalogue
from jobs.foundation.errors import NotFound
from jobs.foundation.ids import batch_job_id
from jobs.foundation.job_states import State
from jobs.foundation.redis_keys import Keys
from jobs.queueing.background_tasks import LeaseLost
from jobs.records.job_models import EditParameters
from jobs.schedules.models import ScheduleTemplate
from jobs.schedules.seen_objects import Mark, SeenObjects, mark_of
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import manifest_key
from jobs.storage.objects import Listed
from jobs.storage.streams import PIECE, put_pieces, read_pieces

CHUNK = 1000
"""Pictures that are compared at once: a page of the listing."""
_RECIPE = (*EditParameters.model_fields, "model", "output_key")


@dataclass(frozen=True)
class ListingResult:
    """The result of a listing.

    Attributes:
        listed: number of pictures under the prefix.
        changed: how many of them are new or changed.
    """

    listed: int
    changed: int


def marks_key(tenant: str, batch_id: str) -> str:
    """The key of the marks of a batch's rows, in the directory of its manifest."""
    return manifest_key(tenant, batch_id).removesuffix("manifest") + "marks"


class ChangedObjects:
    """Finds the pictures of a prefix that are new or changed, and remembers those that succeeded.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
        catalogue: the models.
        bucket: lists prefixes and stores manifests and marks.
        batches: records of the batches.
        seen: marks of each schedule's successes.
    """

    def __init__(
        self, redis: Redis, keys: Keys, *, catalogue: Catalogue, bucket: Bucket, batches: Batches, seen: SeenObjects
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._catalogue = catalogue
        self._bucket = bucket
        self._batches = batches
        self._seen = seen

    def save_changed(
        self,
        template: ScheduleTemplate,
        *,
        schedule_id: str,
        tenant: str,
        batch_id: str,
        check: Callable[[], None],
    ) -> ListingResult:
        """List a prefix, and save a manifest of the new and changed pictures and the marks of its rows.

        One page of the listing is in memory; the changed objects are in two temporary files. A second call lists again
        and overwrites both objects. No other data is written until the batch begins.

        Args:
            template: its source is a prefix.
            schedule_id: its schedule.
            tenant: owner of the schedule.
            batch_id: the batch that the manifest is for.
            check: called after each page; raises if another worker has claimed the task.

        Raises:
            jobs.queueing.background_tasks.LeaseLost: another worker has begun the batch.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        bucket, _, prefix = (template.manifest or "").removeprefix("s3://").partition("/")
        recipe = self.recipe_of(template)
        listed = changed = 0
        with tempfile.TemporaryFile() as rows, tempfile.TemporaryFile() as marks:
            pictures = self._pictures(bucket, prefix)
            while page := list(islice(pictures, CHUNK)):
                check()
                listed += len(page)
                page_marks = [mark_of(picture, recipe) for picture in page]
                known = self._seen.known(schedule_id, page_marks)
                for picture, mark, is_known in zip(page, page_marks, known, strict=True):
                    if not is_known:
                        changed += 1
                        rows.write(_row(bucket, prefix, picture.key))
                        marks.write(mark.line.encode() + b"\n")
            check()
            if self._batches.state(batch_id) is not None:
                raise LeaseLost(f"{batch_id} was begun by another worker")
            if changed:
                # The manifest is written last: if it exists, its marks exist.
                self._put(marks_key(tenant, batch_id), marks)
                self._put(manifest_key(tenant, batch_id), rows)
        return ListingResult(listed, changed)

    def record_successes(self, *, schedule_id: str, tenant: str, batch_id: str, check: Callable[[], None]) -> None:
        """Record the marks of the batch's succeeded rows, as they were listed. A second call changes nothing.

        If a picture changed between its listing and its edit, its mark differs: the next run takes it.

        Raises:
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        with self._marks(tenant, batch_id) as marks:
            row = 1
            while chunk := list(islice(marks, CHUNK)):
                check()
                pipe = self._redis.pipeline(transaction=False)
                for number in range(row, row + len(chunk)):
                    pipe.hget(self._keys.job(batch_job_id(batch_id, number)), "state")
                states = pipe.execute()
                succeeded = [mark for mark, state in zip(chunk, states, strict=True) if state == State.SUCCEEDED]
                self._seen.record(schedule_id, succeeded)
                row += len(chunk)

    def _pictures(self, bucket: str, prefix: str) -> Iterator[Listed]:
        for listed in self._bucket.list_objects(bucket, prefix):
            if PurePosixPath(listed.key).suffix.lower() in IMAGE_SUFFIXES:
                yield listed

    def recipe_of(self, template: ScheduleTemplate) -> str:
        """Digest of the fields that decide a result and its key: after a change of the prompt, every picture is new."""
        fields = template.defaults.model_dump(mode="json", include=set(_RECIPE), exclude_defaults=True)
        fields["model"] = self._catalogue.get(template.defaults.model).name
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def _put(self, key: str, file: IO[bytes]) -> None:
        file.seek(0)
        pieces = iter(lambda: file.read(PIECE), b"")
        put_pieces(self._bucket, self._bucket.name, key, pieces, media_type="application/octet-stream")

    @contextmanager
    def _marks(self, tenant: str, batch_id: str) -> Iterator[Iterator[Mark]]:
        """The marks of a batch's rows; empty if it has none."""
        with tempfile.TemporaryFile() as file:
            try:
                for piece in read_pieces(self._bucket, self._bucket.name, marks_key(tenant, batch_id)):
                    file.write(piece)
            except NotFound:
                file.truncate(0)
            file.seek(0)
            yield (Mark.read(line.decode().rstrip("\n")) for line in file)


def _row(bucket: str, prefix: str, key: str) -> bytes:
    # The same custom_id as in the ingest of a whole prefix.
    row = {"custom_id": key.removeprefix(prefix)[-256:], "image": f"s3://{bucket}/{key}"}
    return json.dumps(row).encode() + b"\n"
