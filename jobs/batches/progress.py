"""How far a batch is, and when it will be done: pure sums over its record and its models' pace."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobs.batches.models import COUNTED, ENDED, Batch, BatchState, Counts, Rollback, SavedResults
from jobs.foundation.ids import made_at
from jobs.foundation.job_states import State
from jobs.records.job_codec import MICRO, moment

TICK_S = 10
"""The beat in which the scripts look at how many have ended."""
_FRESH_TICKS = 2

PaceOf = Callable[[str], tuple[int, float, int]]
"""A model's window, its pace a minute (0: none) and how many tenants share it."""


def decode_batch(
    batch_id: str, record: Mapping[str, str], lanes: Sequence[Mapping[str, str]], pace_of: PaceOf, now_s: float
) -> Batch:
    """A batch as the API shows it.

    Args:
        batch_id: its id.
        record: its hash.
        lanes: `model`, `price` in millionths of a dollar and `trial` of each of its lanes; empty once it has ended.
        pace_of: how a model fares.
        now_s: the moment, as a Unix time.
    """
    counts = {name: max(0, int(record.get(name, 0))) for name in COUNTED}
    counts["total"] = sum(counts[name] for name in COUNTED if name != "reused")
    open_ = counts["queued"] + counts["waiting"] + counts["running"]
    state = BatchState(record["state"])
    ended = state in ENDED
    rate = None if ended else _rate(record, lanes, pace_of, now_s)
    cost = int(record.get("cost", 0))
    price = max((int(card["price"]) for card in lanes), default=0)
    total = counts["total"]
    moments = {
        f"{name}_at": moment(record[field]) if field in record else None
        for name, field in {
            "ingested": "ingested_at",
            "trial_ended": "trial_ended",
            "approved": "approved_at",
            "finished": "finished",
            "results": "results_at",
        }.items()
    }
    if "created" in record:
        moments["created_at"] = moment(record["created"])
    sweep = json.loads(record["sweep"])["kind"] if "sweep" in record else None
    return Batch(
        **{"created_at": made_at(batch_id), **{name: at for name, at in moments.items() if at}},
        id=batch_id,
        name=record.get("name"),
        tenant=record["tenant"],
        state=state,
        reason=record.get("reason"),
        counts=Counts(**counts),
        progress=1.0 if ended else _progress(total, open_, ingested="ingested" in record),
        eta_s=round(open_ / rate, 1) if rate and open_ and state is not BatchState.PAUSED else None,
        rate_per_s=round(rate, 3) if rate else None,
        cost_usd=cost / MICRO,
        estimated_cost_usd=(cost + (0 if ended else open_ * price)) / MICRO,
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
        retrying=sweep == "retry",
        metadata=_object(record, "metadata") or {},
        webhook_url=record.get("webhook_url"),
        sheet=record.get("sheet") == "1",
        supersede=record.get("supersede") == "1",
        superseded=int(record.get("superseded", 0)),
        schedule_id=record.get("schedule_id"),
        run_id=record.get("run_id"),
        rollback=Rollback.model_validate_json(record["rollback"]) if "rollback" in record else None,
        results=SavedResults.model_validate_json(record["kept"])
        if "results_at" in record and "kept" in record
        else None,
    )


def _object(record: Mapping[str, str], name: str) -> dict[str, Any] | None:
    text = record.get(name)
    return json.loads(text) if text else None


def _progress(total: int, open_: int, *, ingested: bool) -> float:
    if not total:
        return 0.0
    done = (total - open_) / total
    # What is still being read is not known: a batch is not done before its manifest is.
    return round(done if ingested else min(done, 0.99), 4)


def _rate(record: Mapping[str, str], lanes: Sequence[Mapping[str, str]], pace_of: PaceOf, now_s: float) -> float | None:
    """Jobs ended a second: the real rate of the last beats, else what the model's window, pace and sharers allow."""
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
    for model in {card["model"] for card in lanes}:
        window, pace, sharing = pace_of(model)
        allowed = [window / mean_s] if mean_s else []
        allowed += [pace / 60] if pace else []
        rate += min(allowed, default=0) / sharing
    return rate or None
