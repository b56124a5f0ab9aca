"""The cost of a nightly run: provider calls and time, for a list and for a prefix; and the memory for seen pictures.

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

from infra.bench.workbench import TENANT, Bench, open_bench, row, until
from jobs.edits.reuse import LastRead, edit_fingerprint
from jobs.images.picture import Picture
from jobs.records.job_models import JobSpec
from jobs.schedules.models import FINAL_RUNS, Run, ScheduleTemplate
from jobs.schedules.seen_objects import mark_of
from jobs.schedules.submission import parse_schedule
from jobs.storage.objects import Listed

CHANGED = 37
SEEN_PICTURES = 500_000
FINISHED_EDITS = 200_000
LAST_READS = 20_000


def picture(seed: int, side: int = 48) -> bytes:
    """A small picture that is different for each seed."""
    noise = random.Random(seed).randbytes(side * side * 3)  # noqa: S311 - pixels, not a secret
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), noise).save(out, "PNG")
    return out.getvalue()


def calls(bench: Bench) -> int:
    """Number of calls of the simulator."""
    return int(httpx.get(f"{bench.simulator}/_sim/calls", params={"summary": "1"}).json()["calls"])


def put(bench: Bench, pictures: range, first_seed: int) -> None:
    """Upload pictures; the number of a picture is its key."""
    bucket = bench.domain.bucket

    def put_one(number: int) -> None:
        data = picture(first_seed + number)
        bucket.put(bucket.name, f"night/{number:06d}.png", data, media_type="image/png")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put_one, pictures))


def night(bench: Bench, schedule_id: str) -> tuple[Run, int, float]:
    """Execute one run: the finished run, its provider calls, and its duration in seconds."""
    before, began = calls(bench), time.monotonic()
    run = bench.domain.schedules.run_now(TENANT, schedule_id).id

    def now() -> Run:
        return bench.domain.runs.get(TENANT, schedule_id, run)

    until(lambda: now().state in FINAL_RUNS, 600)
    return now(), calls(bench) - before, time.monotonic() - began


def nights(number: int) -> None:
    """Run three nights over the same pictures, by list and by prefix; some pictures change before the second."""
    with open_bench(limits={"concurrency": 64}, fast=True) as bench:
        bucket = bench.domain.bucket
        put(bench, range(number), 0)
        rows = "".join(f"{n:06d},s3://{bucket.name}/night/{n:06d}.png\n" for n in range(number))
        bucket.put(bucket.name, "lists/night.csv", f"custom_id,image\n{rows}".encode(), media_type="text/csv")
        bench.worker(concurrency=32, queues="edits,ingest")
        row(f"{number:,} pictures", "calls", "reused", "unchanged", "cost $", "seconds")
        for source, manifest in (("list", "lists/night.csv"), ("prefix", "night/")):
            body = {"name": source, "cron": "0 3 * * *", "manifest": f"s3://{bucket.name}/{manifest}"}
            body["defaults"] = {"prompt": f"by its {source}"}  # type: ignore[assignment]
            schedule = bench.domain.schedule_submission.create(parse_schedule(body), tenant=TENANT)
            for which in ("first night", f"{CHANGED} changed", "nothing changed"):
                if which.endswith("changed") and which[0].isdigit():
                    put(bench, range(CHANGED), 1_000_000 * (1 + len(source)))
                run, called, seconds = night(bench, schedule.id)
                reused = run.counts.reused if run.counts else 0
                row(f"{source}, {which}", called, reused, run.unchanged or 0, f"{run.cost_usd:.3f}", f"{seconds:.1f}")


def memory() -> None:
    """Measure the Redis memory for seen pictures, finished edits and last reads."""
    with open_bench(fast=True) as bench:
        domain = bench.domain
        model = domain.catalogue.get(None)

        def record_seen(first: int, last: int) -> None:
            marks = [mark_of(Listed(f"in/{n}.png", n, f'"{n:032x}"'), "r") for n in range(first, last)]
            domain.seen.record("sch_01KD3V6E5Y2M8Q4T7W9Z0ABCDE", marks)

        def record_edits(first: int, last: int) -> None:
            pipe = domain.redis.pipeline(transaction=False)
            for n in range(first, last):
                fingerprint = edit_fingerprint(TENANT, f"{n:064x}", JobSpec(prompt="p"), model)
                job_id = f"job_01KD3V6E5Y2M8Q4T7W9Z0ABCDE-{n:07d}"
                entry = domain.reuse.entry(TENANT, fingerprint, job_id, datetime.now(UTC))
                pipe.hset(entry.key, entry.field, entry.name)
                pipe.pexpire(entry.key, entry.lives_ms)
            pipe.execute()

        def record_reads(first: int, last: int) -> None:
            for n in range(first, last):
                known = LastRead(f'"{n:032x}"', f"{n:064x}", n, Picture("image/png", 1, 1, exif_rotated=False))
                domain.reuse.remember(TENANT, f"s3://shop/in/{n}.png", known)

        row("memory of Redis", "entries", "bytes an entry")
        memory_row(bench, "pictures of a prefix (few)", 2_000, record_seen)
        memory_row(bench, "pictures of a prefix (many)", SEEN_PICTURES, record_seen, first=2_000)
        memory_row(bench, "finished edits (few)", 2_000, record_edits)
        memory_row(bench, "finished edits (many)", FINISHED_EDITS, record_edits, first=2_000)
        memory_row(bench, "last reads", LAST_READS, record_reads)


def listing(number: int) -> None:
    """Measure time and memory to compare all keys of a prefix, when all are new and when none has changed.

    The listing is generated here, because uploading so many objects would take too long.
    """
    with open_bench(fast=True) as bench:
        domain, schedule = bench.domain, "sch_01KD3V6E5Y2M8Q4T7W9Z0ABCDE"
        body = {
            "name": "n",
            "cron": "@daily",
            "manifest": f"s3://{domain.bucket.name}/in/",
            "defaults": {"prompt": "p"},
        }
        template = ScheduleTemplate.model_validate(body)
        pages = ((Listed(f"in/{n:07d}.png", n, f'"{n:032x}"') for n in range(number)) for _ in range(2))
        domain.bucket.list_objects = lambda *_, **__: next(pages)  # type: ignore[method-assign]
        row(f"{number:,} keys", "changed", "seconds", "memory MB")
        for case in ("all are new", "nothing changed"):
            before, began = memory_mb(), time.monotonic()
            selection = domain.changed_objects.save_changed(
                template, schedule_id=schedule, tenant=TENANT, batch_id=f"bat_{ULID()}", check=lambda: None
            )
            row(case, selection.changed, f"{time.monotonic() - began:.1f}", round(memory_mb() - before))
            for first in range(0, number, 2_000):
                marks = [
                    mark_of(Listed(f"in/{n:07d}.png", n, f'"{n:032x}"'), domain.changed_objects.recipe_of(template))
                    for n in range(first, min(first + 2_000, number))
                ]
                domain.seen.record(schedule, marks)


def memory_mb() -> float:
    """Peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def memory_row(bench: Bench, name: str, last: int, write: Callable[[int, int], None], *, first: int = 0) -> None:
    """Print one line of the table: the memory for ``last - first`` entries."""
    before = used(bench)
    for start in range(first, last, 2_000):
        write(start, min(start + 2_000, last))
    row(name, f"{last - first:,}", round((used(bench) - before) / (last - first)))


def used(bench: Bench) -> int:
    """Memory that the server uses, in bytes."""
    info: Any = bench.domain.redis.info("memory")
    return int(info["used_memory"])


if __name__ == "__main__":
    memory()
    listing(200_000)
    nights(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
