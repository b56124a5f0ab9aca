"""Reads a saved manifest into jobs, a chunk of rows in each script call. Any worker continues where another stopped."""

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any, NoReturn

import structlog

from jobs.batches.commands import Batches
from jobs.batches.manifests.columns import ManifestFault
from jobs.batches.manifests.reader import Row, read_rows
from jobs.batches.models import Reject
from jobs.batches.row_to_job import Item, RowReader
from jobs.edits.rules import JobRules
from jobs.edits.uploads import UploadedPictures
from jobs.foundation.errors import NotFound
from jobs.foundation.ids import MAX_ROWS, batch_job_prefix
from jobs.foundation.redis_keys import Keys
from jobs.plan.planner import Planner
from jobs.plan.script_runner import ScriptRunner
from jobs.queueing.background_tasks import TaskLease
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import manifest_key
from jobs.storage.streams import read_pieces

CHUNK = 500
"""Rows of one script call, which blocks the server for about 20 microseconds a row."""
MAX_BYTES = 512 * 1024 * 1024
QUOTA_PAUSE_S = 20.0
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Ingest:
    """Reads manifests into jobs. Safe in any number of threads at once.

    Attributes:
        batches: their records.
        planner: describes the lanes.
        scripts: runs the scripts.
        keys: names of the keys.
        rules: of every job.
        pictures: where the pictures of rows with a `data:` URL are put.
        bucket: where the manifests lie.
        dispatch: called after each chunk of rows, so that the first jobs do not wait for the last rows.
    """

    batches: Batches
    planner: Planner
    scripts: ScriptRunner
    keys: Keys
    rules: JobRules
    pictures: UploadedPictures
    bucket: Bucket
    dispatch: Callable[[], object]

    def open(self, batch_id: str, lease: TaskLease) -> "ManifestIngest | None":
        """The ingest of a batch's manifest, from where an earlier one stopped; None if there is no such batch.

        Args:
            batch_id: of the batch.
            lease: of the background task; its number fences every write.
        """
        record = self.batches.record(batch_id)
        return ManifestIngest(self, batch_id, record, lease) if record else None


class ManifestIngest:
    """The ingest of one manifest by one worker.

    Args:
        ingest: the stores and rules.
        batch_id: of the batch.
        record: the batch's hash.
        lease: of the background task; its number fences every write.
    """

    def __init__(self, ingest: Ingest, batch_id: str, record: Mapping[str, str], lease: TaskLease) -> None:
        self._batches = ingest.batches
        self._planner = ingest.planner
        self._scripts = ingest.scripts
        self._keys = ingest.keys
        self._bucket = ingest.bucket
        self._dispatch = ingest.dispatch
        self._batch_id = batch_id
        self._lease = lease
        self._record = record
        self._tenant = record["tenant"]
        self._rows = RowReader(
            ingest.rules,
            ingest.pictures,
            tenant=self._tenant,
            batch_id=batch_id,
            defaults=json.loads(record.get("defaults", "{}")),
        )
        self._lanes: dict[tuple[str, str, bool], dict[str, Any]] = {}
        self._trial = int(record.get("trial", 0))
        self._trial_left = self._trial - int(record.get("trial_rows", 0))
        self._chosen: frozenset[int] | None = None
        self._mark = record.get("mark", "")

    @property
    def record(self) -> Mapping[str, str]:
        """The batch's hash as it was when the ingest started."""
        return self._record

    def run(self) -> None:
        """Read to the end, or until another worker must continue. Rows that are written stay written.

        Raises:
            jobs.queueing.background_tasks.LeaseLost: another worker reads the manifest now.
            jobs.queueing.background_tasks.Postponed: the tenant has reached a quota.
            ManifestFault: the manifest cannot be read to its end; the batch's `fault` gives the reason.
            Unavailable, redis.exceptions.RedisError: a store does not answer.
        """
        done = int(self._record.get("row", 0))
        try:
            if self._record["source"] == "prefix":
                self._write(self._listed(done), done)
            else:
                with tempfile.TemporaryFile() as file:
                    self._load(file)
                    if self._trial and self._record.get("trial_sample") == "random":
                        self._chosen = self._sample(file)
                    with closing(read_rows(file)) as rows:
                        self._write(islice(rows, done, None), done)
        except ManifestFault as fault:
            self.fail(fault)

    def fail(self, fault: ManifestFault) -> NoReturn:
        """End the ingest; the batch's `fault` gives the reason.

        Raises:
            ManifestFault: `fault` itself.
        """
        self._end(str(fault))
        raise fault

    def _load(self, file: IO[bytes]) -> None:
        size = 0
        key = manifest_key(self._tenant, self._batch_id)
        try:
            for piece in read_pieces(self._bucket, self._bucket.name, key):
                size += len(piece)
                if size > MAX_BYTES:
                    raise ManifestFault(f"the manifest has over {MAX_BYTES:,} bytes")
                self._lease.check()
                file.write(piece)
        except NotFound as error:
            raise ManifestFault("the manifest is not in the bucket any more") from error

    def _sample(self, file: IO[bytes]) -> frozenset[int]:
        """The rows of a random trial; every worker draws the same ones."""
        with closing(read_rows(file)) as rows:
            total = sum(1 for _ in rows)
        generator = random.Random(self._batch_id)  # noqa: S311 - not for security
        return frozenset(generator.sample(range(1, total + 1), min(self._trial, total)))

    def _listed(self, done: int) -> Iterator[Row]:
        """A row for each picture under the prefix; the mark is the last key read."""
        bucket, _, prefix = self._record["manifest"].removeprefix("s3://").partition("/")
        number = done
        for key in self._bucket.list_keys(bucket, prefix, start_after=self._mark):
            if PurePosixPath(key).suffix.lower() not in IMAGE_SUFFIXES:
                continue
            number += 1
            self._mark = key
            yield Row(number, number, {"custom_id": key.removeprefix(prefix)[-256:], "image": f"s3://{bucket}/{key}"})

    def _write(self, rows: Iterator[Row], done: int) -> None:
        while chunk := list(islice(rows, CHUNK)):
            self._lease.check()
            if chunk[-1].number > MAX_ROWS:
                raise ManifestFault(f"the manifest has over {MAX_ROWS:,} rows")
            if not self._write_chunk(chunk, done):
                return
            done = chunk[-1].number
            self._dispatch()
        self._end("")

    def _write_chunk(self, chunk: list[Row], done: int) -> bool:
        """Write the jobs and rejects of some rows; False where this worker must stop."""
        results = [self._rows.read(row) for row in chunk]
        items = [result for result in results if isinstance(result, Item)]
        rejects = [result.model_dump() for result in results if isinstance(result, Reject)]
        lanes, jobs, trial_left = self._on_lanes(items)
        if self._record.get("supersede") == "1":
            # Before the rows are written: a worker that continues after a crash repeats it.
            custom_ids = [item.custom_id for item in items if item.custom_id is not None]
            self._batches.supersede(self._tenant, self._batch_id, custom_ids)
        command = {
            "claim": self._lease.number,
            "from": done,
            "to": chunk[-1].number,
            "mark": self._mark,
            "job_prefix": self._keys.job(batch_job_prefix(self._batch_id)),
            "lanes": lanes,
            "jobs": jobs,
            "rejects": rejects,
        }
        answer = self._add_rows([item.job_id for item in items], command)
        if answer[0] == "quota":
            limit = "jobs queued at a time" if answer[1] == "max_queued" else "edits a day"
            self._lease.postpone(QUOTA_PAUSE_S, f"the tenant's quota of {answer[2]} {limit}")
        if answer[0] != "ok":
            log.info("ingest.stopped", batch_id=self._batch_id, answer=answer)
            return False
        self._trial_left = trial_left
        return True

    def _add_rows(self, job_ids: list[str], command: Mapping[str, Any]) -> list[Any]:
        keys = self._keys
        answer: list[Any] = self._scripts.run(
            "batches/add_rows",
            [
                keys.batch(self._batch_id),
                keys.tenant(self._tenant),
                keys.custom_ids(self._tenant),
                keys.batch_rejects(self._batch_id),
                keys.batch_outputs(self._batch_id),
                keys.batch_lanes(self._batch_id),
                *map(keys.job, job_ids),
            ],
            [json.dumps(command, ensure_ascii=False)],
        )
        return answer

    def _on_lanes(self, items: list[Item]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
        """The lanes of a chunk, its jobs as the script takes them, and the trial jobs left after it."""
        lanes: dict[str, dict[str, Any]] = {}
        numbers: dict[str, int] = {}
        jobs = []
        trial_left = self._trial_left
        for item in items:
            trial = self._is_trial(item, trial_left)
            trial_left -= trial
            lane = self._lane(item.model, item.priority, trial=trial)
            if lane["key"] not in lanes:
                lanes[lane["key"]] = lane
                numbers[lane["key"]] = len(lanes)
            jobs.append(
                {
                    "lane": numbers[lane["key"]],
                    "row": item.row,
                    "line": item.line,
                    "custom_id": item.custom_id,
                    "due": item.due_ms,
                    "deadline": item.deadline_ms,
                    "output": item.output_digest,
                    "fields": item.fields,
                }
            )
        return list(lanes.values()), jobs, trial_left

    def _is_trial(self, item: Item, left: int) -> bool:
        return item.row in self._chosen if self._chosen is not None else left > 0

    def _lane(self, model: str, priority: str, *, trial: bool) -> dict[str, Any]:
        known = self._lanes.get((model, priority, trial))
        if known is None:
            known = self._planner.lane_record(model, self._tenant, self._batch_id, priority, trial=trial)
            self._lanes[model, priority, trial] = known
        return known

    def _end(self, reason: str) -> None:
        keys = self._keys
        self._scripts.run(
            "batches/end_ingest",
            [keys.batch(self._batch_id), keys.batch_outputs(self._batch_id)],
            [self._lease.number, reason],
        )
