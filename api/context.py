"""The parts of the domain that routes use, as one FastAPI dependency each. They live on the app, never at module level.

A route names the parts that it needs: `def read_job(reader: JobReaderOf, bucket: BucketOf, …)`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry
from redis import Redis

from api.waiting import JobWaiter
from jobs.batches.commands import Batches
from jobs.batches.results.rejects import RejectFiles
from jobs.batches.results.rows import BatchRows
from jobs.batches.rollback import Rollbacks
from jobs.batches.submission import BatchSubmission
from jobs.catalogue.catalogue import Catalogue
from jobs.catalogue.status import Status
from jobs.edits.reader import JobReader
from jobs.edits.submission import JobSubmission
from jobs.foundation.settings import Settings
from jobs.operations.stats import Stats
from jobs.plan.planner import Planner
from jobs.plan.records import Dispatch
from jobs.queueing.dispatch_loop import DispatchLoop
from jobs.queueing.publisher import Publisher, TaskPublisher
from jobs.schedules.runs import Runs
from jobs.schedules.schedules import Schedules
from jobs.schedules.submission import ScheduleSubmission
from jobs.storage.bucket import Bucket
from jobs.tenants.api_keys import ApiKeys
from jobs.tenants.quotas import TenantQuotas
from jobs.tenants.tenants import Tenants
from jobs.webhooks.deliveries import Deliveries
from jobs.webhooks.delivery_reader import DeliveryLog
from jobs.webhooks.endpoints import Endpoints


@dataclass(frozen=True)
class Parts:
    """Everything that the routes of one app use. Every part is safe to share between threads."""

    api_keys: ApiKeys
    batch_rows: BatchRows
    batch_submission: BatchSubmission
    batches: Batches
    bucket: Bucket
    catalogue: Catalogue
    deliveries: Deliveries
    delivery_loop: DispatchLoop[tuple[str, int]]
    delivery_reader: DeliveryLog
    edit_loop: DispatchLoop[Dispatch]
    endpoints: Endpoints
    job_reader: JobReader
    job_submission: JobSubmission
    job_waiter: JobWaiter
    metrics: CollectorRegistry
    planner: Planner
    publisher: Publisher
    quotas: TenantQuotas
    redis: Redis
    reject_files: RejectFiles
    rollbacks: Rollbacks
    runs: Runs
    schedule_submission: ScheduleSubmission
    schedules: Schedules
    settings: Settings
    stats: Stats
    status: Status
    task_publisher: TaskPublisher
    tenants: Tenants


def _part(select: Callable[[Parts], object]) -> Any:
    # Async, because FastAPI runs a synchronous dependency in a thread.
    async def part(request: Request) -> object:
        return select(request.app.state.parts)

    return Depends(part)


ApiKeysOf = Annotated[ApiKeys, _part(lambda parts: parts.api_keys)]
BatchRowsOf = Annotated[BatchRows, _part(lambda parts: parts.batch_rows)]
BatchSubmissionOf = Annotated[BatchSubmission, _part(lambda parts: parts.batch_submission)]
BatchesOf = Annotated[Batches, _part(lambda parts: parts.batches)]
BucketOf = Annotated[Bucket, _part(lambda parts: parts.bucket)]
CatalogueOf = Annotated[Catalogue, _part(lambda parts: parts.catalogue)]
DeliveriesOf = Annotated[Deliveries, _part(lambda parts: parts.deliveries)]
DeliveryReaderOf = Annotated[DeliveryLog, _part(lambda parts: parts.delivery_reader)]
DeliveryLoopOf = Annotated[DispatchLoop[tuple[str, int]], _part(lambda parts: parts.delivery_loop)]
EditLoopOf = Annotated[DispatchLoop[Dispatch], _part(lambda parts: parts.edit_loop)]
EndpointsOf = Annotated[Endpoints, _part(lambda parts: parts.endpoints)]
JobReaderOf = Annotated[JobReader, _part(lambda parts: parts.job_reader)]
JobSubmissionOf = Annotated[JobSubmission, _part(lambda parts: parts.job_submission)]
JobWaiterOf = Annotated[JobWaiter, _part(lambda parts: parts.job_waiter)]
MetricsOf = Annotated[CollectorRegistry, _part(lambda parts: parts.metrics)]
PlannerOf = Annotated[Planner, _part(lambda parts: parts.planner)]
PublisherOf = Annotated[Publisher, _part(lambda parts: parts.publisher)]
QuotasOf = Annotated[TenantQuotas, _part(lambda parts: parts.quotas)]
RedisOf = Annotated[Redis, _part(lambda parts: parts.redis)]
RejectFilesOf = Annotated[RejectFiles, _part(lambda parts: parts.reject_files)]
RollbacksOf = Annotated[Rollbacks, _part(lambda parts: parts.rollbacks)]
RunsOf = Annotated[Runs, _part(lambda parts: parts.runs)]
ScheduleSubmissionOf = Annotated[ScheduleSubmission, _part(lambda parts: parts.schedule_submission)]
SchedulesOf = Annotated[Schedules, _part(lambda parts: parts.schedules)]
SettingsOf = Annotated[Settings, _part(lambda parts: parts.settings)]
StatsOf = Annotated[Stats, _part(lambda parts: parts.stats)]
StatusOf = Annotated[Status, _part(lambda parts: parts.status)]
TaskPublisherOf = Annotated[TaskPublisher, _part(lambda parts: parts.task_publisher)]
TenantsOf = Annotated[Tenants, _part(lambda parts: parts.tenants)]
