"""Progress, rate and cost of a batch: pure functions of its record and the pace of its models."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jobs.batches.models import COUNTED, ENDED, Batch, BatchState, Counts, Rollback, SavedResults
from jobs.foundation.ids import made_at
from jobs.foundation.job_states import State
from jobs.foundation.values import moment
from jobs.records.job_codec import MICRO

TICK_S = 10
"""The interval at which the scripts record how many jobs have ended."""
_FRESH_TICKS = 2

PaceOf = Callable[[str], tuple[int, float, int]]
"""A model's window, its pace a minute (0: no limit) and how many tenants share it."""


_MOMENTS = {
    "created_at": "created",
    "ingested_at": "ingested_at",
    "trial_ended_at": "trial_ended",
    "approved_at": "approved_at",
    "finished_at": "finished",
    "results_at": "results_at",
}
"""The moments of a batch as the API names them, and their fields in the hash."""


def decode_batch(
    batch_id: str, record: Mapping[str, str], lanes: Sequence[Mapping[str, str]], pace_of: PaceOf, now_s: float
) -> Batch:
    """A batch as the API shows it.

    Args:
        batch_id: its id.
        record: its hash.
        lanes: `model`, `price` in millionths of a dollar and `trial` of each of its lanes; empty after it has ended.
        pace_of: window, pace and number of tenants of a model.
        now_s: the moment, as a Unix time.
    """
    return Batch(
        **_outcome(record, lanes, pace_of, now_s),
        **_moments(batch_id, record),
        id=batch_id,
        name=record.get("name"),
        tenant=record["tenant"],
        state=BatchState(record["state"]),
        reason=record.get("reason"),
        budget_usd=int(record["budget"]) / MICRO if "budget" in record else None,
        defaults=_object(record, "defaults") or {},
        changes=_object(record, "changes"),
        trial=int(record["trial"]) if "trial" in record else None,
        trial_sample=record.get("trial_sample"),
        trial_rows=int(record["trial_rows"]) if "trial_rows" in record else None,
        manifest=record.get("manifest"),
        ingested="ingested" in record,
        waits_for=record.get("waits_for"),
        fault=record.get("fault"),
        retrying="sweep" in record and json.loads(record["sweep"])["kind"] == "retry",
        metadata=_object(record, "metadata") or {},
        webhook_url=record.get("webhook_url"),
        sheet=record.get("sheet") == "1",
        supersede=record.get("supersede") == "1",
        superseded=int(record.get("superseded", 0)),
        schedule_id=record.get("schedule_id"),
        run_id=record.get("run_id"),
        rollback=Rollback.model_validate_json(record["rollback"]) if "rollback" in record else None,
        results=_results(record),
    )


def counts_of(record: Mapping[str, str]) -> Counts:
    """A batch's counts, from its hash or a part of it."""
    counts = {name: max(0, int(record.get(name, 0))) for name in COUNTED}
    return Counts(**counts, total=sum(count for name, count in counts.items() if name != "reused"))


def _outcome(
    record: Mapping[str, str], lanes: Sequence[Mapping[str, str]], pace_of: PaceOf, now_s: float
) -> dict[str, Any]:
    """Counts, progress, rate and cost."""
    counts = counts_of(record)
    open_jobs = counts.queued + counts.waiting + counts.running
    state = BatchState(record["state"])
    cost = int(record.get("cost", 0))
    if state in ENDED:
        return {"counts": counts, "progress": 1.0, "cost_usd": cost / MICRO, "estimated_cost_usd": cost / MICRO}
    rate = _rate(record, lanes, pace_of, now_s)
    price = max((int(lane["price"]) for lane in lanes), default=0)
    return {
        "counts": counts,
        "progress": _progress(counts.total, open_jobs, ingested="ingested" in record),
        "eta_s": round(open_jobs / rate, 1) if rate and open_jobs and state is not BatchState.PAUSED else None,
        "rate_per_s": round(rate, 3) if rate else None,
        "cost_usd": cost / MICRO,
        "estimated_cost_usd": (cost + open_jobs * price) / MICRO,
    }


def _moments(batch_id: str, record: Mapping[str, str]) -> dict[str, datetime]:
    moments = {name: moment(record[field]) for name, field in _MOMENTS.items() if field in record}
    return {"created_at": made_at(batch_id), **moments}


def _results(record: Mapping[str, str]) -> SavedResults | None:
    if "results_at" not in record or "kept" not in record:
        return None
    return SavedResults.model_validate_json(record["kept"])


def _object(record: Mapping[str, str], name: str) -> dict[str, Any] | None:
    text = record.get(name)
    return json.loads(text) if text else None


def _progress(total: int, open_jobs: int, *, ingested: bool) -> float:
    if not total:
        return 0.0
    done = (total - open_jobs) / total
    # Rows that are not read yet are not counted: a batch is not done before its manifest has been read.
    return round(done if ingested else min(done, 0.99), 4)


def _rate(record: Mapping[str, str], lanes: Sequence[Mapping[str, str]], pace_of: PaceOf, now_s: float) -> float | None:
    """Jobs ended a second: measured over the last ticks, else what the models' windows, paces and shares allow."""
    ended = sum(int(record.get(state, 0)) for state in (State.SUCCEEDED, State.FILTERED, State.FAILED))
    if record["state"] == BatchState.RUNNING and "tick" in record:
        at = now_s / TICK_S
        tick = int(record["tick"])
        before = int(record["ended_at_tick"]) - int(record["ended_before"])
        within = (at - tick) * TICK_S
        if tick <= at < tick + _FRESH_TICKS and (before or within > TICK_S / 2):
            return max(0, ended - int(record["ended_before"])) / (within + (TICK_S if before else 0))
    if not ended or not lanes:
        return None
    mean_s = int(record.get("busy_ms", 0)) / ended / 1000
    rate = 0.0
    for model in {lane["model"] for lane in lanes}:
        window, pace, sharing = pace_of(model)
        allowed = [window / mean_s] if mean_s else []
        allowed += [pace / 60] if pace else []
        rate += min(allowed, default=0) / sharing
    return rate or None
