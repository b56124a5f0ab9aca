"""What a night costs: calls of the provider and time, by a list and by a folder; and the memory that remembering takes.

Run it with `python -m infra.bench.schedules [PICTURES]`.
"""

import io
import random
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
from PIL import Image
from ulid import ULID

from infra.bench.workbench import TENANT, Bench, bench, row, until
from jobs.edits.reuse import LastRead, edit_fingerprint
from jobs.images.probe import Picture
from jobs.records.job_models import JobSpec
from jobs.schedules.models import FINAL_RUNS, Run, ScheduleTemplate
from jobs.schedules.seen_objects import mark_of
from jobs.schedules.submission import parse_schedule
from jobs.storage.bucket import Listed

CHANGED = 37
SEEN = 500_000
MADE = 200_000
READ = 20_000


def picture(seed: int, side: int = 48) -> bytes:
    """A small picture that no other seed gives."""
    noise = random.Random(seed).randbytes(side * side * 3)  # noqa: S311 - pixels, no secret
    held = io.BytesIO()
    Image.frombytes("RGB", (side, side), noise).save(held, "PNG")
    return held.getvalue()


def calls(stand: Bench) -> int:
    """Calls that the simulator has counted."""
    return int(httpx.get(f"{stand.simulator}/_sim/calls", params={"summary": "1"}).json()["calls"])


def put(stand: Bench, pictures: range, first_seed: int) -> None:
    """Put pictures, each under its number."""
    bucket = stand.domain.bucket

    def one(number: int) -> None:
        data = picture(first_seed + number)
        bucket.put(bucket.name, f"night/{number:06d}.png", data, media_type="image/png")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, pictures))


def night(stand: Bench, schedule_id: str) -> tuple[Run, int, float]:
    """One run to its end: what it did, calls it made, seconds it took."""
    before, begun = calls(stand), time.monotonic()
    run = stand.domain.schedules.run_now(TENANT, schedule_id).id

    def now() -> Run:
        return stand.domain.runs.get(TENANT, schedule_id, run)

    until(lambda: now().state in FINAL_RUNS, 600)
    return now(), calls(stand) - before, time.monotonic() - begun


def nights(number: int) -> None:
    """Three nights over the same pictures, by a list and by a folder; a few change before the second."""
    with bench(limits={"concurrency": 64}, fast=True) as stand:
        bucket = stand.domain.bucket
        put(stand, range(number), 0)
        rows = "".join(f"{n:06d},s3://{bucket.name}/night/{n:06d}.png\n" for n in range(number))
        bucket.put(bucket.name, "lists/night.csv", f"custom_id,image\n{rows}".encode(), media_type="text/csv")
        stand.worker(concurrency=32, queues="edits,ingest")
        row(f"{number:,} pictures", "calls", "reused", "unchanged", "cost $", "seconds")
        for what, manifest in (("list", "lists/night.csv"), ("folder", "night/")):
            body = {"name": what, "cron": "0 3 * * *", "manifest": f"s3://{bucket.name}/{manifest}"}
            body["defaults"] = {"prompt": f"by its {what}"}  # type: ignore[assignment]
            schedule = stand.domain.schedule_submission.create(parse_schedule(body), tenant=TENANT)
            for which in ("first night", f"{CHANGED} changed", "nothing changed"):
                if which.endswith("changed") and which[0].isdigit():
                    put(stand, range(CHANGED), 1_000_000 * (1 + len(what)))
                run, called, seconds = night(stand, schedule.id)
                reused = run.counts.reused if run.counts else 0
                row(f"{what}, {which}", called, reused, run.unchanged or 0, f"{run.cost_usd:.3f}", f"{seconds:.1f}")


def memory() -> None:
    """Bytes of Redis memory that remembering takes."""
    with bench(fast=True) as stand:
        domain = stand.domain
        model = domain.catalogue.get(None)

        def seen(first: int, last: int) -> None:
            found = [mark_of(Listed(f"in/{n}.png", n, f'"{n:032x}"'), "r") for n in range(first, last)]
            domain.seen.record("sch_01KD3V6E5Y2M8Q4T7W9Z0ABCDE", found)

        def made(first: int, last: int) -> None:
            pipe = domain.redis.pipeline(transaction=False)
            for n in range(first, last):
                fingerprint = edit_fingerprint(TENANT, f"{n:064x}", JobSpec(prompt="p"), model)
                job_id = f"job_01KD3V6E5Y2M8Q4T7W9Z0ABCDE-{n:07d}"
                entry = domain.reuse.entry(TENANT, fingerprint, job_id, datetime.now(UTC))
                pipe.hset(entry.key, entry.field, entry.name)
                pipe.pexpire(entry.key, entry.lives_ms)
            pipe.execute()

        def read(first: int, last: int) -> None:
            for n in range(first, last):
                known = LastRead(f'"{n:032x}"', f"{n:064x}", n, Picture("image/png", 1, 1, exif_rotated=False))
                domain.reuse.remember(TENANT, f"s3://shop/in/{n}.png", known)

        row("memory of Redis", "entries", "bytes an entry")
        row_of(stand, "pictures of a prefix (few)", 2_000, seen)
        row_of(stand, "pictures of a prefix (many)", SEEN, seen, first=2_000)
        row_of(stand, "finished edits (few)", 2_000, made)
        row_of(stand, "finished edits (many)", MADE, made, first=2_000)
        row_of(stand, "last reads", READ, read)


def listing(number: int) -> None:
    """A prefix of so many keys: seconds and memory of comparing all of them, nothing changed and everything changed.

    The listing itself is made up here, page by page: a million objects would have to be put first.
    """
    with bench(fast=True) as stand:
        domain, schedule = stand.domain, "sch_01KD3V6E5Y2M8Q4T7W9Z0ABCDE"
        told = {
            "name": "n",
            "cron": "@daily",
            "manifest": f"s3://{domain.bucket.name}/in/",
            "defaults": {"prompt": "p"},
        }
        template = ScheduleTemplate.model_validate(told)
        pages = ((Listed(f"in/{n:07d}.png", n, f'"{n:032x}"') for n in range(number)) for _ in range(2))
        domain.bucket.list_objects = lambda *_, **__: next(pages)  # type: ignore[method-assign]
        row(f"{number:,} keys", "changed", "seconds", "memory MB")
        for what in ("all are new", "nothing changed"):
            before, begun = memory_mb(), time.monotonic()
            taken = domain.changed_objects.save_changed(
                template, schedule_id=schedule, tenant=TENANT, batch_id=f"bat_{ULID()}", check=lambda: None
            )
            row(what, taken.changed, f"{time.monotonic() - begun:.1f}", round(memory_mb() - before))
            for first in range(0, number, 2_000):
                found = [
                    mark_of(Listed(f"in/{n:07d}.png", n, f'"{n:032x}"'), domain.changed_objects.recipe_of(template))
                    for n in range(first, min(first + 2_000, number))
                ]
                domain.seen.record(schedule, found)


def memory_mb() -> float:
    """The most memory that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def row_of(stand: Bench, name: str, last: int, write: Callable[[int, int], None], *, first: int = 0) -> None:
    """One line of the table: what so many entries take."""
    before = used(stand)
    for start in range(first, last, 2_000):
        write(start, min(start + 2_000, last))
    row(name, f"{last - first:,}", round((used(stand) - before) / (last - first)))


def used(stand: Bench) -> int:
    """Bytes that the server holds."""
    info: Any = stand.domain.redis.info("memory")
    return int(info["used_memory"])


if __name__ == "__main__":
    memory()
    listing(200_000)
    nights(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
