"""What a run takes of its prefix: the pictures that are new or changed since their last success."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import IO

from jobs.batch_ingest import PICTURES
from jobs.bucket import Listed
from jobs.bucket_streams import PIECE, put_pieces, read_pieces
from jobs.chores import Lost
from jobs.domain import Domain
from jobs.errors import NotFound
from jobs.ids import batch_job_id
from jobs.models import EditParameters
from jobs.object_names import manifest_key
from jobs.schedule_models import ScheduleTemplate
from jobs.schedule_seen import Mark, mark_of
from jobs.states import State

STRETCH = 1000
"""Pictures that are compared at a time: a page of the listing."""
_RECIPE = (*EditParameters.model_fields, "model", "output_key")


@dataclass(frozen=True)
class Taken:
    """What a listing came to.

    Attributes:
        listed: pictures under the prefix.
        changed: those that are new or changed.
    """

    listed: int
    changed: int


def marks_key(tenant: str, batch_id: str) -> str:
    """The key of the marks of a batch's rows, beside its manifest."""
    return manifest_key(tenant, batch_id).removesuffix("manifest") + "marks"


def keep_changed(
    domain: Domain,
    template: ScheduleTemplate,
    *,
    schedule_id: str,
    tenant: str,
    batch_id: str,
    check: Callable[[], None],
) -> Taken:
    """List a prefix and keep a manifest of what is new or changed, and the marks of its rows, in the bucket.

    It holds a page of the listing in memory, and what has changed in two temporary files. Begun again it lists anew and
    overwrites what it kept; nothing else has been written until the batch begins.

    Args:
        domain: what the process works with.
        template: its source is a prefix.
        schedule_id: whose.
        tenant: on whose behalf.
        batch_id: the batch that the manifest is for.
        check: called after each page; raises where another is at it by now.

    Raises:
        jobs.chores.Lost: another worker was faster.
        Unavailable, redis.exceptions.RedisError: a store does not answer.
    """
    bucket, _, prefix = (template.manifest or "").removeprefix("s3://").partition("/")
    recipe = recipe_of(domain, template)
    listed = changed = 0
    with tempfile.TemporaryFile() as rows, tempfile.TemporaryFile() as marks:
        pictures = _pictures(domain, bucket, prefix)
        while page := list(islice(pictures, STRETCH)):
            check()
            listed += len(page)
            found = [mark_of(one, recipe) for one in page]
            for one, mark, known in zip(page, found, domain.seen.known(schedule_id, found), strict=True):
                if not known:
                    changed += 1
                    rows.write(_row(bucket, prefix, one.key))
                    marks.write(mark.line.encode() + b"\n")
        check()
        if domain.batches.state(batch_id) is not None:
            raise Lost(f"{batch_id} was begun by another worker")
        if changed:
            # The manifest comes last: where it lies, its marks do.
            _put(domain, marks_key(tenant, batch_id), marks)
            _put(domain, manifest_key(tenant, batch_id), rows)
    return Taken(listed, changed)


def record_successes(
    domain: Domain, *, schedule_id: str, tenant: str, batch_id: str, check: Callable[[], None]
) -> None:
    """Remember what the batch's successful rows were when they were listed. Doing it again changes nothing.

    A picture that changed between its listing and its edit differs from what is remembered: the next run takes it.

    Raises:
        Unavailable, redis.exceptions.RedisError: a store does not answer.
    """
    with _marks(domain, tenant, batch_id) as marks:
        row = 1
        while stretch := list(islice(marks, STRETCH)):
            check()
            pipe = domain.redis.pipeline(transaction=False)
            for number in range(row, row + len(stretch)):
                pipe.hget(domain.keys.job(batch_job_id(batch_id, number)), "state")
            states = pipe.execute()
            ended = [mark for mark, state in zip(stretch, states, strict=True) if state == State.SUCCEEDED]
            domain.seen.record(schedule_id, ended)
            row += len(stretch)


def _pictures(domain: Domain, bucket: str, prefix: str) -> Iterator[Listed]:
    for one in domain.bucket.list_objects(bucket, prefix):
        if PurePosixPath(one.key).suffix.lower() in PICTURES:
            yield one


def _row(bucket: str, prefix: str, key: str) -> bytes:
    # As the ingest of a whole prefix names its rows.
    row = {"custom_id": key.removeprefix(prefix)[-256:], "image": f"s3://{bucket}/{key}"}
    return json.dumps(row).encode() + b"\n"


def recipe_of(domain: Domain, template: ScheduleTemplate) -> str:
    """What decides how a result looks and where it goes: with another prompt every picture is new."""
    told = template.defaults.model_dump(mode="json", include=set(_RECIPE), exclude_defaults=True)
    told["model"] = domain.catalogue.get(template.defaults.model).name
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _put(domain: Domain, key: str, file: IO[bytes]) -> None:
    file.seek(0)
    pieces = iter(lambda: file.read(PIECE), b"")
    put_pieces(domain.bucket, domain.bucket.name, key, pieces, media_type="application/octet-stream")


@contextmanager
def _marks(domain: Domain, tenant: str, batch_id: str) -> Iterator[Iterator[Mark]]:
    """The marks of a batch's rows; none where it has none."""
    with tempfile.TemporaryFile() as file:
        try:
            for piece in read_pieces(domain.bucket, domain.bucket.name, marks_key(tenant, batch_id)):
                file.write(piece)
        except NotFound:
            file.truncate(0)
        file.seek(0)
        yield (Mark.read(line.decode().rstrip("\n")) for line in file)
