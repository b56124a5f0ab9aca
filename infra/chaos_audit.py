"""What a chaos run left behind, held to what must be so whatever was killed."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from typing import Any

from PIL import Image

from infra.chaos_load import SUBSCRIBED, Asked, Inbox
from infra.stand import MODEL
from jobs.domain import Domain
from jobs.errors import RetouchError
from jobs.models import Job
from jobs.states import FINAL, State

SETTLING_S = 3.0
"""From an answer to its record, on a machine with much to do: a worker lost in between has lost the answer, too."""
LOSING = frozenset({"worker killed", "worker frozen", "worker drained", "store killed", "bucket killed"})
"""What may lose an answer that was paid for."""
LOST_FOR_GOOD = 3
"""So many lost workers end a job."""


@dataclass(frozen=True)
class Fault:
    """Something that was done to the stand.

    Attributes:
        what: `worker killed`, `worker frozen`, `worker drained`, `store killed`, `bucket killed`, and what explains no
            second purchase: `broker flushed`, `key refused`, `endpoint down`.
        name: of the worker.
        began, ended: seconds since 1970.
    """

    what: str
    name: str
    began: float
    ended: float

    def hit(self, begin: float, end: float, log: str) -> bool:
        """Whether it fell into a call; a worker's must have been that worker's, by the attempts' log."""
        if self.what not in LOSING or self.began > end + SETTLING_S or self.ended < begin:
            return False
        return not self.name or self.name in log


@dataclass
class Report:
    """Counts for people, and what must not be.

    Attributes:
        rows: name and number, in the order of a table.
        faults: sentences; none where all holds.
    """

    rows: dict[str, object] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def expect(self, holds: object, words: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.faults.append(words)

    def table(self) -> str:
        """One line a row."""
        width = max(map(len, self.rows))
        lines = [f"  {name:<{width}}  {value}" for name, value in self.rows.items()]
        return "\n".join([*lines, *(f"  FAULT: {words}" for words in self.faults)])


def wanted_events(asked: Iterable[Asked], jobs: Mapping[str, Job], batches: Iterable[tuple[str, str]]) -> set[Any]:
    """Every event that somebody subscribed to: tenant, type, subject."""
    wanted = {
        (one.tenant, f"job.{jobs[one.job_id].state}", one.job_id)
        for one in asked
        if one.single and f"job.{jobs[one.job_id].state}" in SUBSCRIBED[one.tenant]
    }
    return wanted | {(tenant, "batch.completed", batch_id) for tenant, batch_id in batches}


def audit_jobs(report: Report, asked: Sequence[Asked], jobs: Mapping[str, Job]) -> None:
    """Every job has ended, and as it was to."""
    states = Counter(str(jobs[one.job_id].state) for one in asked)
    given_up = 0
    for one in asked:
        job = jobs[one.job_id]
        lost = sum(attempt.outcome == "lease_lost" for attempt in job.attempts)
        if job.error is not None and job.error.code == "worker_lost" and lost >= LOST_FOR_GOOD:
            given_up += 1
            continue
        words = f"{one.job_id} ({one.prompt!r}) is {job.state}, {job.error and job.error.message}"
        report.expect(job.state is one.kind.ends, words)
    report.rows["jobs"] = len(asked)
    report.rows.update({f"  {name}": number for name, number in sorted(states.items())})
    report.rows["  of these given up after three lost workers"] = given_up


def audit_counts(
    report: Report, domain: Domain, asked: Sequence[Asked], jobs: Mapping[str, Job], batches: Sequence[tuple[str, str]]
) -> None:
    """Indexes, counters of the model and of batches, leases: all say the same as the records."""
    redis, keys = domain.redis, domain.keys
    for tenant in SUBSCRIBED:
        counted = Counter(jobs[one.job_id].state for one in asked if one.tenant == tenant)
        for state in State:
            found = redis.zcard(keys.index(tenant, state))
            report.expect(found == counted[state], f"{tenant}'s index of {state} has {found}, not {counted[state]}")
    model: dict[Any, Any] = redis.hgetall(keys.model(MODEL))
    totals: dict[Any, Any] = redis.hgetall(keys.totals(MODEL))
    ended = Counter(jobs[one.job_id].state for one in asked)
    for name, number in {"in_flight": 0, "n:queued": 0, "n:waiting": 0}.items():
        report.expect(int(model.get(name, 0)) == number, f"the model's {name} is {model.get(name)}, not {number}")
    expected = {"submitted": len(asked), **{f"ended:{state}": ended[state] for state in FINAL}}
    for name, number in expected.items():
        report.expect(int(totals.get(name, 0)) == number, f"its total {name} is {totals.get(name)}, not {number}")
    leases = redis.zcard(keys.leases)
    report.expect(leases == 0, f"{leases} leases are left")
    for tenant, batch_id in batches:
        counts = domain.batches.get(tenant, batch_id).counts.model_dump()
        told = Counter(str(jobs[one.job_id].state) for one in asked if one.job_id.startswith(f"job_{batch_id[4:]}-"))
        report.expect(counts["total"] == told.total(), f"{batch_id} counts {counts['total']}, not {told.total()}")
        for name in map(str, State):
            report.expect(counts[name] == told[name], f"{batch_id} counts {counts[name]} {name}, not {told[name]}")
    report.rows["batches"] = len(batches)


def audit_outputs(report: Report, domain: Domain, jobs: Iterable[Job]) -> None:
    """Every success has a whole picture in the bucket, with the hash that its record names."""
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
        report.expect(hashlib.sha256(data).hexdigest() == job.output.sha256, f"the output of {job.id} is another one")
        count += 1
    report.rows["outputs that decode"] = count


def audit_events(report: Report, inbox: Inbox, wanted: set[Any]) -> None:
    """Every event that was subscribed to came, and nothing that was not signed."""
    for tenant, kind, subject in sorted(inbox.missing(wanted)):
        report.faults.append(f"{tenant} was never told {kind} of {subject}")
    report.expect(inbox.forged == 0, f"{inbox.forged} requests to the receiver were not signed")
    report.rows["events wanted"] = len(wanted)
    report.rows["  told again"] = sum(inbox.told[one] - 1 for one in wanted if one in inbox.told)


def audit_purchases(
    report: Report,
    asked: Sequence[Asked],
    jobs: Mapping[str, Job],
    calls: Sequence[Mapping[str, Any]],
    faults: Sequence[Fault],
) -> None:
    """Each second purchase follows from an answer of no use, or from a fault that fell into the call before it."""
    paid: dict[str, list[Mapping[str, Any]]] = {}
    for call in calls:
        if call["billed"]:
            paid.setdefault(call["prompt"], []).append(call)
    why: Counter[str] = Counter()
    for one in asked:
        log = " ".join(f"{attempt.outcome}: {attempt.message}" for attempt in jobs[one.job_id].attempts)
        bought = sorted(paid.get(one.prompt, []), key=lambda call: call["at"])
        for number, (before, _) in enumerate(pairwise(bought)):
            begin = before["at"]
            end = begin + (before["duration_ms"] or 0) / 1000
            if one.kind.spoils and number == 0:
                why["the answer was of no use"] += 1
            elif hits := [fault for fault in faults if fault.hit(begin, end, log)]:
                why[hits[0].what] += 1
            else:
                why["unexplained"] += 1
                report.faults.append(f"{one.job_id} ({one.prompt!r}) was bought again without a cause: {log}")
    report.rows["calls"] = len(calls)
    report.rows["  paid"] = sum(map(len, paid.values()))
    report.rows["  paid again"] = why.total()
    report.rows.update({f"    {name}": number for name, number in sorted(why.items())})
