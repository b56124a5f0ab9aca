"""Jobs that end without a worker, for tests of the consequences of an end."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from jobs.foundation.errors import InputRejected
from jobs.foundation.ids import new_job_id
from jobs.plan.records import Draft
from jobs.plan.settlement import OK, Settlement
from jobs.records.job_models import Input, JobSpec, Output
from jobs.wiring import Domain

IMAGE = "s3://b/k.png"
MODEL = "step-image-edit-2"


def draft(job_id: str | None = None, **fields: object) -> Draft:
    """A job that is ready to be written."""
    spec = JobSpec.model_validate({"model": MODEL, "prompt": "p", "image": IMAGE, "seed": 1, **fields})
    return Draft(job_id or new_job_id(), spec, Input(image=IMAGE))


def end_jobs(domain: Domain, drafts: Sequence[Draft], *, tenant: str = "acme", failed: bool = False) -> list[str]:
    """Submit, start and end jobs; their ids."""
    # The pace of a real account would make every test of telling wait for the edits.
    domain.redis.hset(domain.keys.model(MODEL), mapping={"rpm": 0, "concurrency": 1000, "limit": 1000})
    ids = domain.planner.submit(drafts, tenant=tenant).job_ids
    output = Output(
        bucket=domain.bucket.name, key="o.png", sha256="0" * 64, bytes=3, media_type="image/png", width=1, height=1
    )
    end = (
        Settlement.failed(InputRejected("no picture"))
        if failed
        else Settlement.succeeded(output, signal=OK, trace_id=None)
    )
    left = set(ids)
    while left:
        # A worker counts for one lease after its pulse, and a busy machine may need longer for all of them.
        domain.planner.renew("hand", slots=1000, worker_info="{}", held=[])
        for dispatch in domain.planner.plan().dispatches:
            claim = domain.planner.claim(dispatch.job_id, dispatch.attempt, "hand")
            assert claim is not None
            assert domain.planner.settle(claim, end, finished_at=datetime.now(UTC))
            left.discard(dispatch.job_id)
    domain.planner.depart("hand", gone=True)
    return ids


def end_job(domain: Domain, *, tenant: str = "acme", failed: bool = False, **fields: Any) -> str:
    """One job that has ended; its id."""
    return end_jobs(domain, [draft(**fields)], tenant=tenant, failed=failed)[0]
