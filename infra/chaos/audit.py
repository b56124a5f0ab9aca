"""What a chaos run left behind, held to what must be so whatever was killed."""

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

    def beside(self, moment: float) -> str:
        """What was done, and when, from a moment on."""
        return f"{self.what} {self.name} {self.began - moment:+.1f} to {self.ended - moment:+.1f} s"


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


def wanted_events(feeder: Feeder, jobs: Mapping[str, Job]) -> set[Any]:
    """Every event that somebody subscribed to: tenant, type, subject."""
    wanted = {
        (one.tenant, f"job.{jobs[one.job_id].state}", one.job_id)
        for one in feeder.asked
        if one.single and f"job.{jobs[one.job_id].state}" in SUBSCRIBED[one.tenant]
    }
    return wanted | {(tenant, "batch.completed", batch_id) for tenant, batch_id in feeder.batches}


def audit_jobs(report: Report, feeder: Feeder, jobs: Mapping[str, Job]) -> None:
    """Every job has ended, and as it was to."""
    states = Counter(str(jobs[one.job_id].state) for one in feeder.asked)
    given_up = 0
    for one in feeder.asked:
        job = jobs[one.job_id]
        lost = sum(attempt.outcome == "lease_lost" for attempt in job.attempts)
        if job.error is not None and job.error.code == "worker_lost" and lost >= LOST_FOR_GOOD:
            given_up += 1
            continue
        words = f"{one.job_id} ({one.prompt!r}) is {job.state}, {job.error and job.error.message}"
        stopped = job.state is State.CANCELED and one.job_id in feeder.canceled - feeder.retried
        report.expect(job.state is one.kind.ends or stopped, words)
    report.rows["jobs"] = len(feeder.asked)
    report.rows.update({f"  {name}": number for name, number in sorted(states.items())})
    report.rows["  of these given up after three lost workers"] = given_up
    report.rows["  canceled and tried again by their users"] = len(feeder.retried)


def audit_counts(report: Report, domain: Domain, feeder: Feeder, jobs: Mapping[str, Job]) -> None:
    """Indexes, counters of the models and of batches, leases: all say the same as the records."""
    redis, keys, asked = domain.redis, domain.keys, feeder.asked
    for tenant in SUBSCRIBED:
        counted = Counter(jobs[one.job_id].state for one in asked if one.tenant == tenant)
        for state in State:
            found = redis.zcard(keys.index(tenant, state))
            report.expect(found == counted[state], f"{tenant}'s index of {state} has {found}, not {counted[state]}")
    for name in domain.catalogue.models:
        of_model = [jobs[one.job_id].state for one in asked if one.kind.model == name]
        model: dict[Any, Any] = redis.hgetall(keys.model(name))
        totals: dict[Any, Any] = redis.hgetall(keys.totals(name))
        for count in ("in_flight", "n:queued", "n:waiting"):
            report.expect(int(model.get(count, 0)) == 0, f"{count} of {name} is {model.get(count)}, not 0")
        submitted = int(totals.get("submitted", 0))
        report.expect(submitted == len(of_model), f"{name} says {submitted} submitted, not {len(of_model)}")
        for state in FINAL:
            ended = int(totals.get(f"ended:{state}", 0)) - int(totals.get(f"again:{state}", 0))
            right = of_model.count(state)
            report.expect(ended == right, f"{name} says {ended} {state}, not {right}")
    leases = redis.zcard(keys.leases)
    report.expect(leases == 0, f"{leases} leases are left")
    for tenant, batch_id in feeder.batches:
        told = domain.batches.get(tenant, batch_id).counts.model_dump()
        held = Counter(str(jobs[one.job_id].state) for one in asked if one.job_id.startswith(f"job_{batch_id[4:]}-"))
        report.expect(told["total"] == held.total(), f"{batch_id} counts {told['total']}, not {held.total()}")
        for name in map(str, State):
            report.expect(told[name] == held[name], f"{batch_id} counts {told[name]} {name}, not {held[name]}")
    report.rows["batches"] = len(feeder.batches)


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
    feeder: Feeder,
    jobs: Mapping[str, Job],
    calls: Sequence[Mapping[str, Any]],
    faults: Sequence[Fault],
) -> None:
    """Each second purchase follows from an answer of no use, a user's wish, or a fault that fell into the call."""
    paid: dict[str, list[Mapping[str, Any]]] = {}
    for call in calls:
        if call["billed"]:
            paid.setdefault(call["prompt"], []).append(call)
    why: Counter[str] = Counter()
    for one in feeder.asked:
        log = " ".join(f"{attempt.outcome}: {attempt.message}" for attempt in jobs[one.job_id].attempts)
        bought = sorted(paid.get(one.prompt, []), key=lambda call: call["at"])
        for number, (before, _) in enumerate(pairwise(bought)):
            begin = before["at"]
            end = begin + (before["duration_ms"] or 0) / 1000
            if one.kind.spoils and number == 0:
                why["the answer was of no use"] += 1
            elif one.job_id in feeder.retried:
                why["its user wanted it again"] += 1
            elif hits := [fault for fault in faults if fault.hit(begin, end, log)]:
                why[hits[0].what] += 1
            else:
                why["unexplained"] += 1
                near = ", ".join(fault.beside(begin) for fault in faults if fault.began - 30 < begin < fault.ended + 30)
                report.faults.append(
                    f"{one.job_id} ({one.prompt!r}) was bought again without a cause: {log}; "
                    f"from the first call, which took {end - begin:.1f} s, it was to {near}"
                )
    report.rows["calls"] = len(calls)
    report.rows["  paid"] = sum(map(len, paid.values()))
    report.rows["  paid again"] = why.total()
    report.rows.update({f"    {name}": number for name, number in sorted(why.items())})
