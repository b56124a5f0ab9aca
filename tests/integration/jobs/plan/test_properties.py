"""Random interleavings of all job transitions; the invariants are checked after each step."""

from collections import Counter
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from infra.local.embedded_servers import Valkey
from jobs.foundation.errors import Conflict
from jobs.foundation.ids import batch_of
from jobs.foundation.job_states import FINAL, LIVE, State
from jobs.plan.records import Claim, Dispatch
from jobs.plan.settlement import OK, Signal
from jobs.tenants.quotas import Quotas
from tests.support.clock import Clock
from tests.support.plans import MODEL, Plans, model

OTHER = "other-model"
TENANTS = ("acme", "globex")
SIGNALS = st.sampled_from(
    [
        OK,
        None,
        Signal("rate", retry_after_ms=500),
        Signal("rate", limit=90),
        Signal("concurrency"),
        Signal("concurrency", limit=2),
        Signal("trouble", code="failing", reason="r"),
        Signal("park", code="model_parked", reason="r"),
    ]
)
_prefixes = count(1)


class Interleavings(RuleBasedStateMachine):
    """A fleet of one worker that does everything in any order, and a clock that jumps."""

    redis: Redis
    jobs: Bundle[str] = Bundle("jobs")
    dispatched: Bundle[Dispatch] = Bundle("dispatched")
    claimed: Bundle[Claim] = Bundle("claimed")

    def __init__(self) -> None:
        super().__init__()
        limits: dict[str, Any] = {"concurrency": 4, "rpm": 600.0}
        other = model(**limits).model_copy(update={"name": OTHER})
        prefix = f"h{next(_prefixes)}:"
        self.plans = Plans(self.redis, prefix, Clock(), model(**limits), other, slots=6)
        self.known: dict[str, str] = {}
        self.ended: dict[str, State] = {}
        self.starts: dict[str, list[int]] = {MODEL: [], OTHER: []}

    @rule(
        target=jobs,
        tenant=st.sampled_from(TENANTS),
        name=st.sampled_from([MODEL, OTHER]),
        priority=st.sampled_from(["high", "normal", "low"]),
        number=st.integers(1, 4),
        batch=st.booleans(),
    )
    def submit(self, tenant: str, name: str, priority: str, number: int, batch: bool) -> Any:
        fields: dict[str, Any] = {"model": name, "priority": priority}
        ids = (
            self.plans.submit_batch(number, tenant, **fields)[1]
            if batch
            else self.plans.submit(number, tenant, **fields)
        )
        self.known |= dict.fromkeys(ids, tenant)
        return multiple(*ids)

    @rule(target=dispatched, limit=st.integers(1, 5))
    def plan(self, limit: int) -> Any:
        before = {name: self.in_flight(name) for name in (MODEL, OTHER)}
        found = self.plans.plan(limit)
        for name in (MODEL, OTHER):
            window = int(float(self.plans.model_field("limit", name) or 0))
            assert self.in_flight(name) <= max(before[name], window)
            if self.plans.model_field("parked", name):
                assert self.in_flight(name) <= before[name] + 1, "a parked model sends one probe"
        for dispatch in found:
            self.starts[self.model_of(dispatch.job_id)].append(self.plans.clock.now_ms)
        assert int(self.redis.zcard(self.plans.keys.leases)) <= max(6, sum(before.values()))
        return multiple(*found)

    @rule(target=claimed, dispatch=consumes(dispatched))
    def claim(self, dispatch: Dispatch) -> Any:
        current = self.record(dispatch.job_id)
        claim = self.plans.planner.claim(dispatch.job_id, dispatch.attempt, "w1")
        ours = current["state"] == "running" and current["attempt"] == str(dispatch.attempt)
        if claim is None:
            assert not ours or not self.redis.zscore(self.plans.keys.leases, self.member(dispatch))
            return multiple()
        assert ours
        return claim

    @rule(
        claim=consumes(claimed),
        to=st.sampled_from([State.SUCCEEDED, State.FILTERED, State.FAILED, State.WAITING, State.QUEUED]),
        signal=SIGNALS,
        delay_ms=st.integers(0, 5000),
    )
    def settle(self, claim: Claim, to: State, signal: Signal | None, delay_ms: int) -> None:
        current = self.record(claim.job_id)
        ours = current["state"] == "running" and current["attempt"] == str(claim.attempt)
        assert self.plans.end(claim, to, signal=signal, delay_ms=delay_ms) == ours
        if ours and to in FINAL:
            self.ended[claim.job_id] = to

    @rule(claim=claimed)
    def settle_late(self, claim: Claim) -> None:
        """An attempt that the store has forgotten writes nothing."""
        current = self.record(claim.job_id)
        if current["attempt"] != str(claim.attempt):
            assert not self.plans.end(claim, State.SUCCEEDED)
            assert self.record(claim.job_id)["state"] == current["state"]

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        before = self.plans.state(job_id)
        try:
            self.plans.planner.cancel(job_id)
        except Conflict:
            assert before in FINAL
        else:
            assert before in LIVE
            self.ended[job_id] = State.CANCELED

    @rule(job_id=jobs)
    def retry(self, job_id: str) -> None:
        before = self.plans.state(job_id)
        try:
            self.plans.planner.retry(job_id)
        except Conflict:
            assert before in LIVE | {State.SUCCEEDED}
        else:
            assert before in {State.FAILED, State.FILTERED, State.CANCELED}
            del self.ended[job_id]

    @rule(name=st.sampled_from([MODEL, OTHER]), park=st.booleans())
    def operate(self, name: str, park: bool) -> None:
        if park:
            self.plans.planner.park(name, "by hand")
        else:
            self.plans.planner.resume(name)
        assert (self.plans.model_field("parked", name) is not None) == park

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0]), steps=st.integers(1, 9))
    def pass_time(self, seconds: float, steps: int) -> None:
        """Leases that nobody renews run out; the worker itself stays alive."""
        for _ in range(steps):
            self.plans.clock.advance(seconds)
            self.plans.beat()

    @invariant()
    def leases_and_windows_agree(self) -> None:
        leases = [str(member) for member in self.redis.zrange(self.plans.keys.leases, 0, -1)]
        for name in (MODEL, OTHER):
            held = sum(self.model_of(self.plans.keys.id_of(m.rpartition("#")[0])) == name for m in leases)
            assert self.in_flight(name) == held
        tenants = [self.redis.hget(self.plans.keys.tenant(tenant), "in_flight") for tenant in TENANTS]
        assert sum(int(value or 0) for value in tenants) == len(leases)

    @invariant()
    def every_job_is_where_its_state_says(self) -> None:
        waiting = {str(key) for key in self.redis.zrange(self.plans.keys.waiting, 0, -1)}
        leases = {str(member) for member in self.redis.zrange(self.plans.keys.leases, 0, -1)}
        indexes = {
            (tenant, state): {str(key) for key in self.redis.zrange(self.plans.keys.index(tenant, state), 0, -1)}
            for tenant in TENANTS
            for state in State
        }
        for job_id, tenant in self.known.items():
            key, record = self.plans.keys.job(job_id), self.record(job_id)
            state = record["state"]
            assert [s for s in State if key in indexes[tenant, s]] == [state]
            assert (key in waiting) == (state == "waiting")
            if state == "running":
                assert f"{key}#{record['attempt']}" in leases
            if state == "queued":
                card = self.redis.hmget(record["lane"], ["list", "share"])
                lanes = self.redis.hget(str(card[1]), "lanes")
                assert key in self.redis.lrange(str(card[0]), 0, -1)
                assert self.redis.zscore(str(lanes), record["lane"]) is not None
        for name in (MODEL, OTHER):
            totals = self.redis.hgetall(self.plans.keys.totals(name))
            for state in set(State) - {State.RUNNING}:
                if state in FINAL:
                    counted = int(totals.get(f"ended:{state}", 0)) - int(totals.get(f"again:{state}", 0))
                else:
                    counted = int(self.plans.model_field(f"n:{state}", name) or 0)
                assert counted == sum(self.record(j)["state"] == state and self.model_of(j) == name for j in self.known)

    @invariant()
    def a_batch_counts_what_its_jobs_are(self) -> None:
        for batch_id in {batch for job_id in self.known if (batch := batch_of(job_id))}:
            counts = self.redis.hgetall(self.plans.keys.batch(batch_id))
            states = Counter(self.record(job_id)["state"] for job_id in self.known if batch_of(job_id) == batch_id)
            assert {state: int(counts.get(state, 0)) for state in State} == {state: states[state] for state in State}

    @rule(tenant=st.sampled_from(TENANTS), most=st.sampled_from([None, 1, 2]))
    def limit(self, tenant: str, most: int | None) -> None:
        """A tenant may have more or less in flight: what runs goes on, and nothing that waits is forgotten."""
        self.plans.quotas.set(tenant, Quotas(max_in_flight=most))

    @invariant()
    def what_has_ended_stays_ended(self) -> None:
        for job_id, state in self.ended.items():
            assert self.plans.state(job_id) is state

    @invariant()
    def starts_keep_the_pace(self) -> None:
        for starts in self.starts.values():
            for first in range(max(0, len(starts) - 40), len(starts)):
                within = [at for at in starts[first:] if at - starts[first] < 1000]
                assert len(within) <= 16, "600 a minute are 10 a second, and half a second ahead of the beat"

    def record(self, job_id: str) -> dict[str, str]:
        found: Any = self.redis.hgetall(self.plans.keys.job(job_id))
        return {"attempt": "0", **found}

    def model_of(self, job_id: str) -> str:
        lane = self.record(job_id)["lane"]
        return OTHER if self.redis.hget(lane, "model") == self.plans.keys.model(OTHER) else MODEL

    def in_flight(self, name: str) -> int:
        return int(self.plans.model_field("in_flight", name) or 0)

    def member(self, dispatch: Dispatch) -> str:
        return f"{self.plans.keys.job(dispatch.job_id)}#{dispatch.attempt}"


@pytest.mark.timeout(240)
def test_no_interleaving_breaks_an_invariant(valkey: Valkey) -> None:
    client = Redis.from_url(valkey.url, decode_responses=True)
    machine = type("Machine", (Interleavings,), {"redis": client})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Ids are drawn anew each time, so that what fails cannot be shrunk.
            phases=[Phase.explicit, Phase.generate],
            database=None,
            print_blob=False,
        ),
    )
    client.close()
