"""Reading and listing. It changes nothing."""

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from redis import Redis

from jobs.foundation.errors import NotFound
from jobs.foundation.ids import batch_job_prefix, batch_of
from jobs.foundation.job_states import LIVE, State
from jobs.foundation.paging import AFTER_ALL, Page, check_limit, falling, read_cursor, write_cursor
from jobs.foundation.redis_keys import Keys
from jobs.records.job_codec import decode_job
from jobs.records.job_models import Job

MAX_PAGE = 500


class JobReader:
    """The records of jobs, read from Redis.

    Args:
        redis: a client that decodes answers.
        keys: names of the keys.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def get(self, tenant: str, job_id: str) -> Job:
        """One job.

        Raises:
            NotFound: no job of that id is this tenant's (its record may have expired).
        """
        found = self.get_many(tenant, [job_id])
        if not found:
            raise NotFound(f"there is no job {job_id}")
        return found[0]

    def get_many(self, tenant: str, job_ids: Iterable[str]) -> list[Job]:
        """The jobs of these ids that are this tenant's, in the given order; the others are left out."""
        ids = list(job_ids)
        pipe = self._redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.hgetall(self._keys.job(job_id))
        records = pipe.execute()
        lanes = self._lanes({record["lane"] for record in records if record})
        shared = self._shared({batch for i in ids if (batch := batch_of(i))})
        jobs = []
        for job_id, record in zip(ids, records, strict=True):
            lane = lanes[record["lane"]] if record else None
            if lane is None or lane.owner != tenant:
                continue
            fields = shared.get(batch_of(job_id) or "", _ALONE)
            if lane.stopped and record["state"] in LIVE:
                record |= {"state": State.CANCELED, "finished": fields.finished or "0"}
            jobs.append(decode_job(job_id, tenant, record, fields.defaults, None if lane.trial else fields.changes))
        return jobs

    def page(
        self,
        tenant: str,
        *,
        state: State | None = None,
        batch_id: str | None = None,
        custom_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Job]:
        """A tenant's jobs, the newest first.

        Args:
            tenant: its name.
            state: only those in this state.
            batch_id: only those of this batch.
            custom_id: only those with this custom_id.
            limit: most jobs of the page, 1 to 500.
            cursor: `next_cursor` of the page before.

        Raises:
            InvalidInput: naming `limit` or `cursor`.
        """
        check_limit(limit, MAX_PAGE)
        below = read_cursor(cursor, "job_.+") if cursor else None
        candidates = (
            self._ids_with_custom_id(tenant, custom_id, batch_id, below)
            if custom_id is not None
            else self._ids_by_state(tenant, self._indexes_of(state, batch_id), batch_id, below)
        )
        found: list[Job] = []
        while chunk := list(islice(candidates, limit)):
            jobs = {job.id: job for job in self.get_many(tenant, chunk)}
            for job_id in chunk:
                job = jobs.get(job_id)
                if job is None or (state is not None and job.state is not state):
                    continue
                found.append(job)
                if len(found) == limit:
                    return Page(found, write_cursor(job_id))
        return Page(found, None)

    def _ids_by_state(
        self, tenant: str, states: Iterable[State], batch_id: str | None, below: str | None
    ) -> Iterator[str]:
        """Ids in falling order over the indexes of some states."""
        indexes = [self._keys.index(tenant, state) for state in states]
        prefix = batch_job_prefix(batch_id) if batch_id else "job_"
        low = f"[{self._keys.job(prefix)}"
        high = f"({self._keys.job(below or prefix + AFTER_ALL)}"
        streams = [falling(self._redis, index, high, low) for index in indexes]
        merged = heapq.merge(*streams, reverse=True) if len(streams) > 1 else streams[0]
        return (self._keys.id_of(key) for key in merged)

    def _ids_with_custom_id(
        self, tenant: str, custom_id: str, batch_id: str | None, below: str | None
    ) -> Iterator[str]:
        prefix = batch_job_prefix(batch_id) if batch_id else "job_"
        low = f"[{custom_id}\0{self._keys.job(prefix)}"
        high = f"({custom_id}\0{self._keys.job(below or prefix + AFTER_ALL)}"
        for member in falling(self._redis, self._keys.custom_ids(tenant), high, low):
            yield self._keys.id_of(member.rpartition("\0")[2])

    def _indexes_of(self, state: State | None, batch_id: str | None) -> list[State]:
        """The indexes that may hold jobs in a state. Records of a canceled batch change after the batch."""
        if state is None:
            return list(State)
        if state is State.CANCELED and batch_id and self._redis.hexists(self._keys.batch(batch_id), "sweep"):
            return [state, *sorted(LIVE)]
        return [state]

    def _lanes(self, lanes: set[str]) -> dict[str, "_Lane"]:
        names = list(lanes)
        pipe = self._redis.pipeline(transaction=False)
        for lane in names:
            pipe.hmget(lane, ["owner", "trial", "stopped"])
        return {
            name: _Lane(owner, trial == "1", stopped == "1")
            for name, (owner, trial, stopped) in zip(names, pipe.execute(), strict=True)
        }

    def _shared(self, batch_ids: set[str]) -> dict[str, "_Shared"]:
        names = list(batch_ids)
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.hmget(self._keys.batch(name), ["defaults", "changes", "finished"])
        return {
            name: _Shared(
                json.loads(defaults) if defaults else None, json.loads(changes) if changes else None, finished
            )
            for name, (defaults, changes, finished) in zip(names, pipe.execute(), strict=True)
        }


@dataclass(frozen=True)
class _Lane:
    """The fields of a lane that hold for all its jobs: the tenant, trial or not, canceled with its batch or not."""

    owner: str | None
    trial: bool
    stopped: bool


@dataclass(frozen=True)
class _Shared:
    """The fields of a batch that hold for all its jobs."""

    defaults: dict[str, Any] | None = None
    changes: dict[str, Any] | None = None
    finished: str | None = None


_ALONE = _Shared()
