"""Audits the data after a chaos run: jobs, counters, outputs, events and purchases."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from typing import Any

from PIL import Image

from infra.chaos.load import SUBSCRIBED, Feeder, Inbox
from jobs.foundation.errors import RetouchError
from jobs.foundation.job_states import FINAL, State
from jobs.records.job_models import Job
from jobs.wiring import Domain

CHECKPOINT_S = 3.0
"""Maximum time from an answer to its checkpoint on a busy machine. A worker killed in between loses the answer."""
ANSWER_LOSING = frozenset({"worker killed", "worker frozen", "worker drained", "store killed", "bucket killed"})
"""Faults that can lose a paid answer."""
MAX_LOST_WORKERS = 3
"""A job fails when it has lost this many workers."""


@dataclass(frozen=True)
class Fault:
    """An injected fault.

    Attributes:
        what: kind of the fault. Only the kinds in `ANSWER_LOSING` can cause a second purchase.
        name: name of the worker, or "".
        started_at, ended_at: seconds since 1970.
    """

    what: str
    name: str
    started_at: float
    ended_at: float

    def overlaps(self, begin: float, end: float, log: str) -> bool:
        """Return whether it can have lost the answer of a call: `log`, of the attempts, must name the worker."""
        if self.what not in ANSWER_LOSING or self.started_at > end + CHECKPOINT_S or self.ended_at < begin:
            return False
        return not self.name or self.name in log

    def relative_to(self, moment: float) -> str:
        """Describe the fault, with times relative to a moment."""
        return f"{self.what} {self.name} {self.started_at - moment:+.1f} to {self.ended_at - moment:+.1f} s"


@dataclass
class Report:
    """The result of an audit.

    Attributes:
        rows: names and counts, in the order of the table.
        faults: descriptions of the faults; empty if there are none.
    """

    rows: dict[str, object] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def expect(self, condition: object, fault: str) -> None:
        """Add a fault if the condition is false."""
        if not condition:
            self.faults.append(fault)

    def table(self) -> str:
        """Return the rows and the faults as lines of text."""
        width = max(map(len, self.rows))
        lines = [f"  {name:<{width}}  {value}" for name, value in self.rows.items()]
        return "\n".join([*lines, *(f"  FAULT: {fault}" for fault in self.faults)])


def expected_events(feeder: Feeder, jobs: Mapping[str, Job]) -> set[Any]:
    """Return the events that the endpoints must get, as (tenant, type, subject)."""
    events = {
        (submitted.tenant, f"job.{jobs[submitted.job_id].state}", submitted.job_id)
        for submitted in feeder.submitted
        if submitted.single and f"job.{jobs[submitted.job_id].state}" in SUBSCRIBED[submitted.tenant]
    }
    return events | {(tenant, "batch.completed", batch_id) for tenant, batch_id in feeder.batches}


def audit_jobs(report: Report, feeder: Feeder, jobs: Mapping[str, Job]) -> None:
    """Check that every job has ended in the expected state."""
    states = Counter(str(jobs[submitted.job_id].state) for submitted in feeder.submitted)
    worker_lost = 0
    for submitted in feeder.submitted:
        job = jobs[submitted.job_id]
        lost = sum(attempt.outcome == "lease_lost" for attempt in job.attempts)
        if job.error is not None and job.error.code == "worker_lost" and lost >= MAX_LOST_WORKERS:
            worker_lost += 1
            continue
        fault = f"{submitted.job_id} ({submitted.prompt!r}) is {job.state}, {job.error and job.error.message}"
        canceled = job.state is State.CANCELED and submitted.job_id in feeder.canceled - feeder.retried
        report.expect(job.state is submitted.kind.final_state or canceled, fault)
    report.rows["jobs"] = len(feeder.submitted)
    report.rows.update({f"  {name}": number for name, number in sorted(states.items())})
    report.rows["  failed after three lost workers"] = worker_lost
    report.rows["  canceled and retried by their users"] = len(feeder.retried)


def audit_counts(report: Report, domain: Domain, feeder: Feeder, jobs: Mapping[str, Job]) -> None:
    """Check that indexes, counters of models and batches, and leases agree with the records."""
    redis, keys = domain.redis, domain.keys
    for tenant in SUBSCRIBED:
        counted = Counter(jobs[submitted.job_id].state for submitted in feeder.submitted if submitted.tenant == tenant)
        for state in State:
            indexed = redis.zcard(keys.index(tenant, state))
            report.expect(indexed == counted[state], f"{tenant}'s index of {state} has {indexed}, not {counted[state]}")
    for name in domain.catalogue.models:
        of_model = [jobs[submitted.job_id].state for submitted in feeder.submitted if submitted.kind.model == name]
        model: dict[Any, Any] = redis.hgetall(keys.model(name))
        totals: dict[Any, Any] = redis.hgetall(keys.totals(name))
        for count in ("in_flight", "n:queued", "n:waiting"):
            report.expect(int(model.get(count, 0)) == 0, f"{count} of {name} is {model.get(count)}, not 0")
        total = int(totals.get("submitted", 0))
        report.expect(total == len(of_model), f"{name} counts {total} submitted, not {len(of_model)}")
        for state in FINAL:
            ended = int(totals.get(f"ended:{state}", 0)) - int(totals.get(f"again:{state}", 0))
            expected = of_model.count(state)
            report.expect(ended == expected, f"{name} counts {ended} {state}, not {expected}")
    leases = redis.zcard(keys.leases)
    report.expect(leases == 0, f"{leases} leases are left")
    for tenant, batch_id in feeder.batches:
        counts = domain.batches.get(tenant, batch_id).counts.model_dump()
        actual = Counter(
            str(jobs[submitted.job_id].state)
            for submitted in feeder.submitted
            if submitted.job_id.startswith(f"job_{batch_id[4:]}-")
        )
        report.expect(counts["total"] == actual.total(), f"{batch_id} counts {counts['total']}, not {actual.total()}")
        for name in map(str, State):
            report.expect(counts[name] == actual[name], f"{batch_id} counts {counts[name]} {name}, not {actual[name]}")
    report.rows["batches"] = len(feeder.batches)


def audit_outputs(report: Report, domain: Domain, jobs: Iterable[Job]) -> None:
    """Check that every succeeded job has a valid picture in the bucket, with the hash in its record."""
    count = 0
    for job in jobs:
        if job.state is not State.SUCCEEDED:
            continue
        if job.output is None:
            report.faults.append(f"{job.id} succeeded without an output")
            continue
        try:
            data = domain.bucket.get(job.output.bucket, job.output.key, max_bytes=1 << 26)
            Image.open(BytesIO(data)).load()
        except (RetouchError, OSError) as error:
            report.faults.append(f"the output of {job.id}: {error}")
            continue
        report.expect(hashlib.sha256(data).hexdigest() == job.output.sha256, f"the output of {job.id} has another hash")
        count += 1
    report.rows["outputs that decode"] = count


def audit_events(report: Report, inbox: Inbox, expected: set[Any]) -> None:
    """Check that every expected event was delivered, and that every request had a valid signature."""
    for tenant, kind, subject in sorted(inbox.missing(expected)):
        report.faults.append(f"{tenant} did not get {kind} of {subject}")
    report.expect(inbox.invalid == 0, f"{inbox.invalid} requests to the receiver had an invalid signature")
    report.rows["events expected"] = len(expected)
    report.rows["  delivered again"] = sum(inbox.counts[key] - 1 for key in expected if key in inbox.counts)


def audit_purchases(
    report: Report,
    feeder: Feeder,
    jobs: Mapping[str, Job],
    calls: Sequence[Mapping[str, Any]],
    faults: Sequence[Fault],
) -> None:
    """Check that each second purchase has a cause: an unusable answer, a retry by the user, or a fault."""
    paid: dict[str, list[Mapping[str, Any]]] = {}
    for call in calls:
        if call["billed"]:
            paid.setdefault(call["prompt"], []).append(call)
    causes: Counter[str] = Counter()
    for submitted in feeder.submitted:
        log = " ".join(f"{attempt.outcome}: {attempt.message}" for attempt in jobs[submitted.job_id].attempts)
        bought = sorted(paid.get(submitted.prompt, []), key=lambda call: call["at"])
        for number, (before, _) in enumerate(pairwise(bought)):
            begin = before["at"]
            end = begin + (before["duration_ms"] or 0) / 1000
            if submitted.kind.unusable_answer and number == 0:
                causes["unusable answer"] += 1
            elif submitted.job_id in feeder.retried:
                causes["retried by the user"] += 1
            elif overlapping := [fault for fault in faults if fault.overlaps(begin, end, log)]:
                causes[overlapping[0].what] += 1
            else:
                causes["unexplained"] += 1
                near = ", ".join(
                    fault.relative_to(begin) for fault in faults if fault.started_at - 30 < begin < fault.ended_at + 30
                )
                report.faults.append(
                    f"{submitted.job_id} ({submitted.prompt!r}) was bought twice without a cause: {log}; "
                    f"the first call took {end - begin:.1f} s; faults relative to its start: {near}"
                )
    report.rows["calls"] = len(calls)
    report.rows["  paid"] = sum(map(len, paid.values()))
    report.rows["  paid again"] = causes.total()
    report.rows.update({f"    {name}": number for name, number in sorted(causes.items())})
