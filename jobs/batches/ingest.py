"""Reads a saved manifest into jobs, a stretch of rows a script. Any worker continues where another one stopped."""

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
from jobs.batches.row_to_job import Item, Refusal, RowReader
from jobs.edits.rules import JobRules
from jobs.edits.uploads import UploadedPictures
from jobs.foundation.errors import NotFound
from jobs.foundation.ids import MAX_ROWS, batch_job_prefix
from jobs.foundation.redis_keys import Keys
from jobs.plan.planner import Planner
from jobs.plan.script_runner import ScriptRunner
from jobs.queueing.background_tasks import Held
from jobs.storage.bucket import Bucket
from jobs.storage.object_keys import manifest_key
from jobs.storage.streams import read_pieces

CHUNK = 500
"""Rows of one script, which blocks the server for about 20 microseconds a row."""
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
        rules: what each row must keep.
        pictures: where the pictures of rows with a `data:` URL are put.
        bucket: where the manifests lie.
        dispatch: called after each stretch of rows, so that the first jobs do not wait for the last rows.
    """

    batches: Batches
    planner: Planner
    scripts: ScriptRunner
    keys: Keys
    rules: JobRules
    pictures: UploadedPictures
    bucket: Bucket
    dispatch: Callable[[], object]

    def open(self, batch_id: str, held: Held) -> "ManifestIngest | None":
        """The reading of a batch's manifest, from where an earlier one stopped; None where there is no such batch.

        Args:
            batch_id: whose manifest.
            held: the chore; its number fences every write.
        """
        record = self.batches.record(batch_id)
        return ManifestIngest(self, batch_id, record, held) if record else None


class ManifestIngest:
    """One worker's reading of one manifest.

    Args:
        ingest: what it works with.
        batch_id: whose manifest.
        record: the batch as it is now.
        held: the chore; its number fences every write.
    """

    def __init__(self, ingest: Ingest, batch_id: str, record: Mapping[str, str], held: Held) -> None:
        self._batches = ingest.batches
        self._planner = ingest.planner
        self._scripts = ingest.scripts
        self._keys = ingest.keys
        self._bucket = ingest.bucket
        self._dispatch = ingest.dispatch
        self._batch_id = batch_id
        self._held = held
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
        """The batch as it was when the reading started."""
        return self._record

    def run(self) -> None:
        """Read to the end, or until another worker must continue. Rows that were written stay written.

        Raises:
            jobs.queueing.background_tasks.Lost: another worker reads the manifest now.
            jobs.queueing.background_tasks.PutOff: a quota of the tenant is used up.
            ManifestFault: the manifest cannot be read, or not to its end; the batch's `fault` says why.
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
        """Stop the ingest for good; the batch's `fault` says why.

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
                self._held.check()
                file.write(piece)
        except NotFound as error:
            raise ManifestFault("the manifest is not in the bucket any more") from error

    def _sample(self, file: IO[bytes]) -> frozenset[int]:
        """The rows of a random trial: the same ones, whoever reads."""
        with closing(read_rows(file)) as rows:
            total = sum(1 for _ in rows)
        dice = random.Random(self._batch_id)  # noqa: S311 - a sample, no secret
        return frozenset(dice.sample(range(1, total + 1), min(self._trial, total)))

    def _listed(self, done: int) -> Iterator[Row]:
        """A row for each picture under the prefix; the mark is the last key that was read."""
        bucket, _, prefix = self._record["manifest"].removeprefix("s3://").partition("/")
        number = done
        for key in self._bucket.list_keys(bucket, prefix, start_after=self._mark):
            if PurePosixPath(key).suffix.lower() not in IMAGE_SUFFIXES:
                continue
            number += 1
            self._mark = key
            yield Row(number, number, {"custom_id": key.removeprefix(prefix)[-256:], "image": f"s3://{bucket}/{key}"})

    def _write(self, rows: Iterator[Row], done: int) -> None:
        while stretch := list(islice(rows, CHUNK)):
            self._held.check()
            if stretch[-1].number > MAX_ROWS:
                raise ManifestFault(f"the manifest has over {MAX_ROWS:,} rows")
            if not self._write_stretch(stretch, done):
                return
            done = stretch[-1].number
            self._dispatch()
        self._end("")

    def _write_stretch(self, stretch: list[Row], done: int) -> bool:
        read = [self._rows.read(row) for row in stretch]
        items = [one for one in read if isinstance(one, Item)]
        lanes, jobs, trial_left = self._on_lanes(items)
        if self._record.get("supersede") == "1":
            # Before the stretch is written: a reader that goes on after a crash does it again.
            names = [item.custom_id for item in items if item.custom_id is not None]
            self._batches.supersede(self._tenant, self._batch_id, names)
        keys = self._keys
        order = {
            "number": self._held.number,
            "from": done,
            "to": stretch[-1].number,
            "mark": self._mark,
            "prefix": keys.job(batch_job_prefix(self._batch_id)),
            "lanes": lanes,
            "jobs": jobs,
            "refused": [[one.row, one.text] for one in read if isinstance(one, Refusal)],
        }
        answer = self._scripts.run(
            "batches/add_rows",
            [
                keys.batch(self._batch_id),
                keys.tenant(self._tenant),
                keys.customs(self._tenant),
                keys.batch_rejects(self._batch_id),
                keys.batch_outputs(self._batch_id),
                keys.batch_lanes(self._batch_id),
                *(keys.job(item.job_id) for item in items),
            ],
            [json.dumps(order, ensure_ascii=False)],
        )
        if answer[0] == "quota":
            what = "jobs queued at a time" if answer[1] == "max_queued" else "edits a day"
            self._held.put_off(QUOTA_PAUSE_S, f"the tenant's quota of {answer[2]} {what}")
        if answer[0] != "ok":
            log.info("ingest.stopped", batch_id=self._batch_id, why=answer)
            return False
        self._trial_left = trial_left
        return True

    def _on_lanes(self, items: list[Item]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
        """The lanes of a stretch, its jobs as the script takes them, and how many of the trial are left after it."""
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
                    "due": item.due,
                    "deadline": item.deadline,
                    "custom": item.custom_id,
                    "place": item.place,
                    "refusal": item.refusal,
                    "fields": item.fields,
                }
            )
        return list(lanes.values()), jobs, trial_left

    def _is_trial(self, item: Item, left: int) -> bool:
        return item.row in self._chosen if self._chosen is not None else left > 0

    def _lane(self, model: str, priority: str, *, trial: bool) -> dict[str, Any]:
        known = self._lanes.get((model, priority, trial))
        if known is None:
            known = self._planner.lane_card(model, self._tenant, self._batch_id, priority, trial=trial)
            self._lanes[model, priority, trial] = known
        return known

    def _end(self, why: str) -> None:
        keys = self._keys
        self._scripts.run(
            "batches/end_ingest",
            [keys.batch(self._batch_id), keys.batch_outputs(self._batch_id)],
            [self._held.number, why],
        )
