"""The name of every key in Redis. No other module, and no script, puts one together.

Scripts find further keys inside records: a job names its lane, a lane its share, its model and its indexes.
"""

import hashlib
from dataclasses import dataclass

from jobs.foundation.job_states import State

TENANT_LABEL = r"^[a-z0-9][a-z0-9_-]{0,62}$"
"""What a tenant may be called: it stands inside keys and object names."""


@dataclass(frozen=True)
class Keys:
    """Names under one prefix; two deployments, or two tests, with different prefixes never meet.

    Attributes:
        prefix: what every key begins with.
    """

    prefix: str

    @property
    def spine(self) -> list[str]:
        """The first KEYS of every script that changes a job, in their order."""
        return [self.leases, self.waiting, self.deadlines, self.outbox, self.fleet]

    @property
    def leases(self) -> str:
        """Sorted set: `job key#attempt` by the lease's end, in ms."""
        return f"{self.prefix}leases"

    @property
    def waiting(self) -> str:
        """Sorted set: job keys by the moment they are due, in ms."""
        return f"{self.prefix}waiting"

    @property
    def deadlines(self) -> str:
        """Sorted set: keys of unfinished jobs that have a deadline, by it, in ms."""
        return f"{self.prefix}deadlines"

    @property
    def outbox(self) -> str:
        """Stream of events that have not been turned into deliveries."""
        return f"{self.prefix}outbox"

    @property
    def fleet(self) -> str:
        """Hash: `slots`, the fleet's edit threads, `slots:NAME` of each live worker, `rows:OUTCOME` of manifests."""
        return f"{self.prefix}fleet"

    @property
    def workers(self) -> str:
        """Sorted set: names of live workers by the moment they count as gone, in ms."""
        return f"{self.prefix}workers"

    def worker(self, name: str) -> str:
        """String: what a worker says of itself, JSON, gone with it."""
        return f"{self.prefix}worker:{name}"

    def job(self, job_id: str) -> str:
        """Hash: the job's record."""
        return f"{self.prefix}{job_id}"

    def id_of(self, key: str) -> str:
        """The id whose key this is."""
        return key.removeprefix(self.prefix)

    def final_channel(self, job_id: str) -> str:
        """Channel on which a job's final state is published."""
        return self.job(job_id)

    def batch(self, batch_id: str) -> str:
        """Hash: the batch's record and counts."""
        return f"{self.prefix}{batch_id}"

    def batches(self, tenant: str) -> str:
        """Sorted set, all scores 0: keys of a tenant's batches, in the order of their ids."""
        return f"{self.prefix}batches:{tenant}"

    def batch_lanes(self, batch_id: str) -> str:
        """Set: keys of a batch's lanes."""
        return f"{self.prefix}lanes-of:{batch_id}"

    def batch_rejects(self, batch_id: str) -> str:
        """List: a batch's refused rows in manifest order, JSON."""
        return f"{self.prefix}rejects:{batch_id}"

    def batch_outputs(self, batch_id: str) -> str:
        """Set: digests of the places of a batch's results, while its manifest is read."""
        return f"{self.prefix}places:{batch_id}"

    @property
    def background_tasks(self) -> str:
        """Sorted set: `kind batch key` of work on whole batches, by the moment it is due or its lease ends, in ms."""
        return f"{self.prefix}chores"

    def model(self, name: str) -> str:
        """Hash: a model's window, pace and park."""
        return f"{self.prefix}model:{name}"

    def totals(self, model: str) -> str:
        """Hash: what was counted of a model since ever."""
        return f"{self.prefix}totals:{model}"

    def samples(self, model: str) -> str:
        """List: a model's totals of the last hour, the newest first, each `ms JSON`."""
        return f"{self.prefix}samples:{model}"

    def ring(self, model: str) -> str:
        """Sorted set: shares with something queued for a model, by virtual time."""
        return f"{self.prefix}ring:{model}"

    def share(self, model: str, tenant: str) -> str:
        """Hash: one tenant's part of one model."""
        return f"{self.prefix}share:{model}:{tenant}"

    def share_lanes(self, model: str, tenant: str) -> str:
        """Sorted set: a share's lanes with something queued, by virtual time."""
        return f"{self.prefix}lanes:{model}:{tenant}"

    def lane(self, model: str, tenant: str, batch_id: str | None, priority: str, *, trial: bool = False) -> str:
        """Hash: a waiting line's card, with the keys of all it belongs to. A batch's trial has lanes of its own.

        Each of a batch's jobs names its lane, so that key is a short one: a digest.
        """
        name = f"{model}:{tenant}:{batch_id or '-'}:{priority}{':trial' * trial}"
        return f"{self.prefix}lane:{hashlib.blake2b(name.encode(), digest_size=9).hexdigest() if batch_id else name}"

    def lane_list(self, model: str, tenant: str, batch_id: str | None, priority: str, *, trial: bool = False) -> str:
        """List: a lane's job keys, the next one first."""
        return f"{self.prefix}line:{model}:{tenant}:{batch_id or '-'}:{priority}{':trial' * trial}"

    def tenant(self, tenant: str) -> str:
        """Hash: a tenant's quotas, counters and secret."""
        return f"{self.prefix}tenant:{tenant}"

    @property
    def tenants(self) -> str:
        """Set: names of all tenants."""
        return f"{self.prefix}tenants"

    def stalled(self, tenant: str) -> str:
        """Set: shares held back while their tenant is at its most in flight."""
        return f"{self.prefix}stalled:{tenant}"

    def index(self, tenant: str, state: State | str) -> str:
        """Sorted set, all scores 0: a tenant's job keys in one state, in the order of their ids."""
        return f"{self.prefix}index:{tenant}:{state}"

    def customs(self, tenant: str) -> str:
        """Sorted set, all scores 0: `custom_id`, a zero byte, job key."""
        return f"{self.prefix}customs:{tenant}"

    @property
    def tidied(self) -> str:
        """Hash: index key -> the member at which the walk that tidies it has come."""
        return f"{self.prefix}tidied"

    @property
    def tidying(self) -> str:
        """String: who takes this minute's step has set it."""
        return f"{self.prefix}tidying"

    def idempotency(self, tenant: str, digest: str) -> str:
        """Hash: what an Idempotency-Key stands for; `digest` is the key's SHA-256."""
        return f"{self.prefix}idem:{tenant}:{digest}"

    def api_key(self, digest: str) -> str:
        """Hash: whom an API key belongs to; `digest` is the key's SHA-256."""
        return f"{self.prefix}apikey:{digest}"

    def api_keys(self, tenant: str) -> str:
        """Set: digests of a tenant's API keys."""
        return f"{self.prefix}apikeys:{tenant}"

    def deliveries(self, name: str) -> str:
        """What all deliveries share; lua/lib/delivery_keys.lua says what each name is."""
        return f"{self.prefix}deliveries:{name}"

    @property
    def telling(self) -> list[str]:
        """The first KEYS of every script about deliveries, in their order."""
        kinds = ("quick", "new", "slow")
        lists, leases = ([self.deliveries(f"{what}:{kind}") for kind in kinds] for what in ("turns", "leases"))
        return [self.outbox, self.deliveries("lines"), *lists, *leases, self.deliveries("tellers")]

    def line(self, line_id: str) -> str:
        """Hash: an endpoint's record, or that of the addresses of one origin that jobs and batches name."""
        return f"{self.prefix}{line_id}"

    def line_due(self, line_id: str) -> str:
        """Sorted set: a line's waiting delivery keys, by the next try in ms."""
        return f"{self.prefix}due:{line_id}"

    def told(self, line_id: str, state: str) -> str:
        """Sorted set, all scores 0: a line's delivery keys in one state, in the order of their events."""
        return f"{self.prefix}told:{line_id}:{state}"

    def endpoints(self, tenant: str) -> str:
        """Set: keys of a tenant's endpoints."""
        return f"{self.prefix}endpoints:{tenant}"

    def digest(self, batch_id: str, line_id: str) -> str:
        """Hash: a digest of a batch's job events for one line."""
        return f"{self.prefix}digest:{batch_id}:{line_id}"

    def digest_list(self, batch_id: str, line_id: str) -> str:
        """List: what a digest has collected, a JSON text an event."""
        return f"{self.prefix}digestlist:{batch_id}:{line_id}"

    def origins(self, tenant: str) -> str:
        """Sorted set: keys of the lines of a tenant's `webhook_url`s and deleted endpoints, by their last event, ms."""
        return f"{self.prefix}origins:{tenant}"

    def listeners(self, tenant: str) -> str:
        """Set: keys of a tenant's endpoints that want to hear of single jobs."""
        return f"{self.prefix}listeners:{tenant}"

    def delivery(self, delivery_id: str) -> str:
        """Hash: one telling of one event to one address."""
        return f"{self.prefix}{delivery_id}"

    def schedule(self, schedule_id: str) -> str:
        """Hash: a schedule's record."""
        return f"{self.prefix}{schedule_id}"

    def schedules(self, tenant: str) -> str:
        """Sorted set, all scores 0: keys of a tenant's schedules, in the order of their ids."""
        return f"{self.prefix}schedules:{tenant}"

    @property
    def schedules_due(self) -> str:
        """Sorted set: keys of active schedules by their next tick, in ms."""
        return f"{self.prefix}schedules-due"

    def run(self, run_id: str) -> str:
        """Hash: a run's record."""
        return f"{self.prefix}{run_id}"

    def runs(self, schedule_id: str) -> str:
        """Sorted set: keys of a schedule's runs by the moment they were scheduled for, in ms."""
        return f"{self.prefix}runs:{schedule_id}"

    def runs_waiting(self, schedule_id: str) -> str:
        """List: keys of runs that wait for the one before, the next one first."""
        return f"{self.prefix}runs-waiting:{schedule_id}"

    def seen(self, schedule_id: str, part: int) -> str:
        """Hash, one of many: digest of an object's key to digest of what it was at its last success."""
        return f"{self.prefix}seen:{schedule_id}:{part:x}"

    def made(self, tenant: str, period: int, part: int) -> str:
        """Hash, one of many: digest of an edit's fingerprint to the job that made it in some period."""
        return f"{self.prefix}made:{tenant}:{period}:{part:x}"

    def read(self, tenant: str, digest: str) -> str:
        """String: what a picture's address held when it was last read for a tenant."""
        return f"{self.prefix}read:{tenant}:{digest}"
