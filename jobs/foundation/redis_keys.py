"""The names of all keys in Redis. No other module and no script builds a key.

Scripts read further keys from records: a job names its lane; a lane names its share, its model and its indexes.
"""

import hashlib
from dataclasses import dataclass

from jobs.foundation.job_states import State

TENANT_LABEL = r"^[a-z0-9][a-z0-9_-]{0,62}$"
"""The form of a tenant's name, which is a part of keys and object names."""


@dataclass(frozen=True)
class Keys:
    """Keys with one prefix. Deployments or tests with different prefixes can share a server.

    Attributes:
        prefix: the beginning of every key.
    """

    prefix: str

    @property
    def common_keys(self) -> list[str]:
        """The first KEYS of every script on jobs, in the order of `lua/lib/common_keys.lua`."""
        return [self.leases, self.waiting, self.deadlines, self.outbox, self.fleet]

    @property
    def leases(self) -> str:
        """Sorted set: `job key#attempt` by the end of its lease, in ms."""
        return f"{self.prefix}leases"

    @property
    def waiting(self) -> str:
        """Sorted set: keys of waiting jobs by the time at which they are due, in ms."""
        return f"{self.prefix}waiting"

    @property
    def deadlines(self) -> str:
        """Sorted set: keys of unfinished jobs that have a deadline, by the deadline, in ms."""
        return f"{self.prefix}deadlines"

    @property
    def outbox(self) -> str:
        """Stream: events for which no deliveries have been created yet."""
        return f"{self.prefix}outbox"

    @property
    def fleet(self) -> str:
        """Hash: `slots` (all edit threads), `slots:NAME` of each live worker, `rows:OUTCOME` of manifests."""
        return f"{self.prefix}fleet"

    @property
    def workers(self) -> str:
        """Sorted set: names of live workers by the time at which they expire, in ms."""
        return f"{self.prefix}workers"

    def worker(self, name: str) -> str:
        """String: a worker's description of itself, JSON. It expires with the worker."""
        return f"{self.prefix}worker:{name}"

    def job(self, job_id: str) -> str:
        """Hash: a job's record."""
        return f"{self.prefix}{job_id}"

    def id_of(self, key: str) -> str:
        """The id in the key of a record."""
        return key.removeprefix(self.prefix)

    def final_channel(self, job_id: str) -> str:
        """Channel: a job's final state is published on it."""
        return self.job(job_id)

    def batch(self, batch_id: str) -> str:
        """Hash: a batch's record and counts."""
        return f"{self.prefix}{batch_id}"

    def batches(self, tenant: str) -> str:
        """Sorted set, all scores 0: keys of a tenant's batches, in the order of their ids."""
        return f"{self.prefix}batches:{tenant}"

    def batch_lanes(self, batch_id: str) -> str:
        """Set: keys of a batch's lanes."""
        return f"{self.prefix}lanes-of:{batch_id}"

    def batch_rejects(self, batch_id: str) -> str:
        """List: a batch's rejected rows in the order of the manifest, JSON."""
        return f"{self.prefix}rejects:{batch_id}"

    def batch_outputs(self, batch_id: str) -> str:
        """Set: digests of the output keys of a batch's jobs. It exists while the manifest is read."""
        return f"{self.prefix}places:{batch_id}"

    @property
    def background_tasks(self) -> str:
        """Sorted set: `kind batch_key` of tasks on whole batches, by the time at which they are due, in ms.

        While a task runs, its score is the end of its lease.
        """
        return f"{self.prefix}chores"

    def model(self, name: str) -> str:
        """Hash: a model's window, pace and park."""
        return f"{self.prefix}model:{name}"

    def totals(self, model: str) -> str:
        """Hash: counters of a model since the beginning."""
        return f"{self.prefix}totals:{model}"

    def samples(self, model: str) -> str:
        """List: a model's totals of the last hour, the newest first, each `ms JSON`."""
        return f"{self.prefix}samples:{model}"

    def ring(self, model: str) -> str:
        """Sorted set: keys of the shares that have queued jobs for a model, by virtual time."""
        return f"{self.prefix}ring:{model}"

    def share(self, model: str, tenant: str) -> str:
        """Hash: one tenant's share of one model."""
        return f"{self.prefix}share:{model}:{tenant}"

    def share_lanes(self, model: str, tenant: str) -> str:
        """Sorted set: keys of a share's lanes that have queued jobs, by virtual time."""
        return f"{self.prefix}lanes:{model}:{tenant}"

    def lane(self, model: str, tenant: str, batch_id: str | None, priority: str, *, trial: bool = False) -> str:
        """Hash: a lane's record, with the keys of its share, model, tenant, batch and indexes.

        The jobs of a batch's trial have lanes of their own. Each job of a batch names its lane, so this key is a short
        digest.
        """
        name = f"{model}:{tenant}:{batch_id or '-'}:{priority}{':trial' * trial}"
        return f"{self.prefix}lane:{hashlib.blake2b(name.encode(), digest_size=9).hexdigest() if batch_id else name}"

    def lane_list(self, model: str, tenant: str, batch_id: str | None, priority: str, *, trial: bool = False) -> str:
        """List: keys of a lane's queued jobs, the next one first."""
        return f"{self.prefix}line:{model}:{tenant}:{batch_id or '-'}:{priority}{':trial' * trial}"

    def tenant(self, tenant: str) -> str:
        """Hash: a tenant's quotas, counters and secret."""
        return f"{self.prefix}tenant:{tenant}"

    @property
    def tenants(self) -> str:
        """Set: names of all tenants."""
        return f"{self.prefix}tenants"

    def stalled(self, tenant: str) -> str:
        """Set: keys of a tenant's shares that wait while the tenant has its maximum of jobs in flight."""
        return f"{self.prefix}stalled:{tenant}"

    def index(self, tenant: str, state: State | str) -> str:
        """Sorted set, all scores 0: keys of a tenant's jobs in one state, in the order of their ids."""
        return f"{self.prefix}index:{tenant}:{state}"

    def custom_ids(self, tenant: str) -> str:
        """Sorted set, all scores 0: `custom_id`, a zero byte, job key."""
        return f"{self.prefix}customs:{tenant}"

    @property
    def index_cleanup_positions(self) -> str:
        """Hash: key of an index -> the member at which its cleanup continues."""
        return f"{self.prefix}tidied"

    @property
    def index_cleanup_lock(self) -> str:
        """String: a lock with an expiry. The process that sets it does the next step of the index cleanup."""
        return f"{self.prefix}tidying"

    def idempotency(self, tenant: str, digest: str) -> str:
        """Hash: the answer to a request with an Idempotency-Key; `digest` is the key's SHA-256."""
        return f"{self.prefix}idem:{tenant}:{digest}"

    def api_key(self, digest: str) -> str:
        """Hash: the owner of an API key; `digest` is the key's SHA-256."""
        return f"{self.prefix}apikey:{digest}"

    def api_keys(self, tenant: str) -> str:
        """Set: digests of a tenant's API keys."""
        return f"{self.prefix}apikeys:{tenant}"

    def deliveries(self, name: str) -> str:
        """A key that all deliveries share; `lua/lib/delivery_keys.lua` has the types and contents."""
        return f"{self.prefix}deliveries:{name}"

    @property
    def delivery_keys(self) -> list[str]:
        """The first KEYS of every script on deliveries, in the order of `lua/lib/delivery_keys.lua`."""
        kinds = ("quick", "new", "slow")
        turns, leases = ([self.deliveries(f"{name}:{kind}") for kind in kinds] for name in ("turns", "leases"))
        return [self.outbox, self.deliveries("lines"), *turns, *leases, self.deliveries("tellers")]

    def receiver_queue(self, queue_id: str) -> str:
        """Hash: an endpoint's record, or the record of all `webhook_url`s of one origin."""
        return f"{self.prefix}{queue_id}"

    def receiver_queue_due(self, queue_id: str) -> str:
        """Sorted set: keys of a receiver queue's waiting deliveries, by the next try, in ms."""
        return f"{self.prefix}due:{queue_id}"

    def deliveries_in_state(self, queue_id: str, state: str) -> str:
        """Sorted set, all scores 0: a receiver queue's deliveries in one state, in the order of their events."""
        return f"{self.prefix}told:{queue_id}:{state}"

    def endpoints(self, tenant: str) -> str:
        """Set: keys of a tenant's endpoints."""
        return f"{self.prefix}endpoints:{tenant}"

    def digest(self, batch_id: str, queue_id: str) -> str:
        """Hash: a digest of a batch's job events for one receiver queue."""
        return f"{self.prefix}digest:{batch_id}:{queue_id}"

    def digest_list(self, batch_id: str, queue_id: str) -> str:
        """List: the events that a digest has collected, each a JSON text."""
        return f"{self.prefix}digestlist:{batch_id}:{queue_id}"

    def origin_queues(self, tenant: str) -> str:
        """Sorted set: receiver queues of a tenant's `webhook_url`s and deleted endpoints, by the last event, in ms."""
        return f"{self.prefix}origins:{tenant}"

    def job_event_endpoints(self, tenant: str) -> str:
        """Set: keys of a tenant's endpoints that subscribe to events of single jobs."""
        return f"{self.prefix}listeners:{tenant}"

    def delivery(self, delivery_id: str) -> str:
        """Hash: the delivery of one event to one address."""
        return f"{self.prefix}{delivery_id}"

    def schedule(self, schedule_id: str) -> str:
        """Hash: a schedule's record."""
        return f"{self.prefix}{schedule_id}"

    def schedules(self, tenant: str) -> str:
        """Sorted set, all scores 0: keys of a tenant's schedules, in the order of their ids."""
        return f"{self.prefix}schedules:{tenant}"

    @property
    def schedules_due(self) -> str:
        """Sorted set: keys of active schedules by their next run, in ms."""
        return f"{self.prefix}schedules-due"

    def run(self, run_id: str) -> str:
        """Hash: a run's record."""
        return f"{self.prefix}{run_id}"

    def runs(self, schedule_id: str) -> str:
        """Sorted set: keys of a schedule's runs by their scheduled time, in ms."""
        return f"{self.prefix}runs:{schedule_id}"

    def runs_waiting(self, schedule_id: str) -> str:
        """List: keys of runs that wait for an earlier run to end, the next one first."""
        return f"{self.prefix}runs-waiting:{schedule_id}"

    def seen_objects(self, schedule_id: str, part: int) -> str:
        """Hash, one of many: digest of an object's key -> digest of the version that was last edited successfully."""
        return f"{self.prefix}seen:{schedule_id}:{part:x}"

    def edit_results(self, tenant: str, period: int, part: int) -> str:
        """Hash, one of many: digest of an edit's fingerprint -> the job that produced it in one period."""
        return f"{self.prefix}made:{tenant}:{period}:{part:x}"

    def address_contents(self, tenant: str, digest: str) -> str:
        """String: the ETag, hash and size of the picture at an address when a tenant's job last fetched it."""
        return f"{self.prefix}read:{tenant}:{digest}"
