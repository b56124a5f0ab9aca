"""Builds all parts of `jobs` from the settings, from the lowest layer up. Only entry points and tests import it.

Each group holds the parts of one subject. A function builds a group from the groups below it.
`Domain` has the fields of all groups.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from celery import Celery
from redis import Redis

from jobs.batches.commands import Batches
from jobs.batches.ingest import Ingest
from jobs.batches.results.contact_sheet import ContactSheet
from jobs.batches.results.rejects import RejectFiles
from jobs.batches.results.rows import BatchRows
from jobs.batches.results.writer import ResultWriter
from jobs.batches.rollback import Rollbacks
from jobs.batches.submission import BatchSubmission
from jobs.catalogue.catalogue import Catalogue, load_catalogue
from jobs.catalogue.status import Status
from jobs.edits.output_versions import OutputVersions
from jobs.edits.reader import JobReader
from jobs.edits.reuse import Reuse
from jobs.edits.rules import JobRules
from jobs.edits.submission import JobSubmission
from jobs.edits.uploads import UploadedPictures
from jobs.foundation.redis_client import connect
from jobs.foundation.redis_keys import Keys
from jobs.foundation.secret_box import SecretBox
from jobs.foundation.settings import Settings
from jobs.foundation.tracing import Spans, open_spans
from jobs.operations.index_cleanup import IndexCleaner
from jobs.operations.stats import Stats
from jobs.plan.planner import Planner
from jobs.plan.records import Dispatch
from jobs.plan.script_runner import ScriptRunner
from jobs.queueing.background_tasks import LEASE_S, BackgroundTasks
from jobs.queueing.celery_app import make_celery
from jobs.queueing.dispatch_loop import DispatchLoop
from jobs.queueing.publisher import Publisher, TaskPublisher
from jobs.schedules.changed_objects import ChangedObjects
from jobs.schedules.run_to_batch import RunToBatch
from jobs.schedules.runs import Runs
from jobs.schedules.schedules import Schedules
from jobs.schedules.seen_objects import SeenObjects
from jobs.schedules.submission import ScheduleSubmission
from jobs.storage.bucket import Bucket
from jobs.tenants.api_keys import ApiKeys
from jobs.tenants.quotas import TenantQuotas
from jobs.tenants.tenants import Tenants
from jobs.webhooks.deliveries import Deliveries
from jobs.webhooks.delivery_reader import DeliveryLog
from jobs.webhooks.delivery_scripts import DeliveryScripts
from jobs.webhooks.digests import Digests
from jobs.webhooks.endpoints import Endpoints
from jobs.webhooks.payloads import Bodies


@dataclass(frozen=True)
class Foundation:
    """The settings, the clients of the stores, and the scripts."""

    settings: Settings
    redis: Redis
    keys: Keys
    secret_box: SecretBox
    spans: Spans
    bucket: Bucket
    catalogue: Catalogue
    status: Status
    scripts: ScriptRunner


@dataclass(frozen=True)
class Planning:
    """The plan, and the tenants whose jobs it starts."""

    planner: Planner
    tenants: Tenants
    api_keys: ApiKeys
    quotas: TenantQuotas


@dataclass(frozen=True)
class Queueing:
    """Everything that publishes to Celery, except deliveries."""

    celery: Celery
    publisher: Publisher
    edit_loop: DispatchLoop[Dispatch]
    background_tasks: BackgroundTasks
    task_publisher: TaskPublisher


@dataclass(frozen=True)
class Edits:
    """Single jobs."""

    job_reader: JobReader
    pictures: UploadedPictures
    rules: JobRules
    job_submission: JobSubmission
    reuse: Reuse
    versions: OutputVersions


@dataclass(frozen=True)
class WebhookParts:
    """Webhooks: endpoints, deliveries and their bodies."""

    deliveries: Deliveries
    digests: Digests
    delivery_loop: DispatchLoop[tuple[str, int]]
    delivery_log: DeliveryLog
    endpoints: Endpoints
    bodies: Bodies


@dataclass(frozen=True)
class BatchParts:
    """Batches, their manifests and their results."""

    batches: Batches
    batch_submission: BatchSubmission
    ingest: Ingest
    rows: BatchRows
    rejects: RejectFiles
    result_writer: ResultWriter
    rollbacks: Rollbacks


@dataclass(frozen=True)
class ScheduleParts:
    """Schedules and their runs."""

    schedules: Schedules
    runs: Runs
    seen: SeenObjects
    changed_objects: ChangedObjects
    schedule_submission: ScheduleSubmission
    run_to_batch: RunToBatch


@dataclass(frozen=True)
class Operations:
    """Statistics and cleaning."""

    stats: Stats
    index_cleaner: IndexCleaner


@dataclass(frozen=True)
class Domain(Operations, ScheduleParts, BatchParts, WebhookParts, Edits, Queueing, Planning, Foundation):
    """All parts that a process of Retouch works with. Many threads may use each part at once."""

    @classmethod
    def open(cls, settings: Settings, *, clock_ms: Callable[[], int] | None = None) -> Self:
        """Build all parts. Each connects to its store when it is first used.

        Args:
            settings: of the process.
            clock_ms: the scripts' clock for tests, ms since 1970; by default the server's own clock.

        Raises:
            ConfigurationError: the catalogue or the secret key is invalid.
        """
        base = _foundation(settings, clock_ms)
        planning = _planning(base)
        queueing = _queueing(base, planning)
        edits = _edits(base, planning, queueing)
        webhooks = _webhooks(base, queueing, clock_ms)
        batches = _batches(base, planning, queueing, edits, webhooks)
        schedules = _schedules(base, batches, webhooks)
        operations = Operations(
            stats=Stats(base.redis, base.keys, base.catalogue, base.scripts, base.status),
            index_cleaner=IndexCleaner(base.redis, base.keys),
        )
        groups = (base, planning, queueing, edits, webhooks, batches, schedules, operations)
        return cls(**{name: part for group in groups for name, part in vars(group).items()})

    def close(self) -> None:
        """Close all connections."""
        self.celery.close()
        self.bucket.close()
        self.redis.close()


def _foundation(settings: Settings, clock_ms: Callable[[], int] | None) -> Foundation:
    redis, keys, catalogue = connect(settings), Keys(settings.key_prefix), load_catalogue(settings.config)
    return Foundation(
        settings=settings,
        redis=redis,
        keys=keys,
        secret_box=SecretBox(settings.secret_key),
        spans=open_spans(),
        bucket=Bucket(settings),
        catalogue=catalogue,
        status=Status(redis, keys, catalogue),
        scripts=ScriptRunner(
            redis, keys, retention_s=settings.retention_s, lease_s=settings.lease_s, clock_ms=clock_ms
        ),
    )


def _planning(base: Foundation) -> Planning:
    tenants = Tenants(base.redis, base.keys, base.secret_box)
    return Planning(
        planner=Planner(base.redis, base.keys, base.catalogue, base.scripts),
        tenants=tenants,
        api_keys=ApiKeys(base.redis, base.keys, tenants),
        quotas=TenantQuotas(base.redis, base.keys, tenants),
    )


def _queueing(base: Foundation, planning: Planning) -> Queueing:
    celery = make_celery(base.settings)
    publisher = Publisher(celery)
    tasks = BackgroundTasks(base.scripts, base.keys, lease_s=min(LEASE_S, base.settings.lease_s))
    return Queueing(
        celery=celery,
        publisher=publisher,
        edit_loop=DispatchLoop(planning.planner.plan, publisher.publish_edits),
        background_tasks=tasks,
        task_publisher=TaskPublisher(publisher, tasks),
    )


def _edits(base: Foundation, planning: Planning, queueing: Queueing) -> Edits:
    reader, pictures = JobReader(base.redis, base.keys), UploadedPictures(base.bucket, base.settings)
    rules = JobRules(base.catalogue, base.settings, pictures)
    return Edits(
        job_reader=reader,
        pictures=pictures,
        rules=rules,
        job_submission=JobSubmission(
            rules,
            pictures,
            planner=planning.planner,
            dispatch=queueing.edit_loop.dispatch,
            reader=reader,
            spans=base.spans,
        ),
        reuse=Reuse(base.redis, base.keys, retention_s=base.settings.retention_s),
        versions=OutputVersions(base.redis, base.keys, base.scripts),
    )


def _webhooks(base: Foundation, queueing: Queueing, clock_ms: Callable[[], int] | None) -> WebhookParts:
    scripts = DeliveryScripts(
        base.redis,
        base.keys,
        retention_s=base.settings.retention_s,
        lease_s=max(base.settings.lease_s, base.settings.webhook_timeout_s + 2),
        clock_ms=clock_ms,
    )
    deliveries = Deliveries(base.redis, base.keys, scripts)
    endpoints = Endpoints(base.redis, base.keys, base.settings, base.secret_box, deliveries)
    bodies = Bodies(base.redis, base.keys, base.bucket)
    bodies.register("endpoint", endpoints.data_of)
    bodies.register("model", base.status.data_of)
    return WebhookParts(
        deliveries=deliveries,
        digests=Digests(base.redis, base.keys, scripts),
        delivery_loop=DispatchLoop(deliveries.plan, queueing.publisher.publish_deliveries),
        delivery_log=DeliveryLog(base.redis, base.keys),
        endpoints=endpoints,
        bodies=bodies,
    )


def _batches(
    base: Foundation, planning: Planning, queueing: Queueing, edits: Edits, webhooks: WebhookParts
) -> BatchParts:
    settings, bucket, retention_s = base.settings, base.bucket, base.settings.retention_s
    batches = Batches(base.redis, base.keys, base.catalogue, base.scripts, base.status)
    webhooks.bodies.register("batch", batches.data_of)
    rows, rejects = BatchRows(batches, edits.job_reader, bucket, retention_s=retention_s), RejectFiles(batches, bucket)
    sheet = ContactSheet(rows, bucket)
    return BatchParts(
        batches=batches,
        batch_submission=BatchSubmission(
            edits.rules,
            batches=batches,
            bucket=bucket,
            settings=settings,
            publisher=queueing.task_publisher,
            spans=base.spans,
        ),
        ingest=Ingest(
            batches=batches,
            planner=planning.planner,
            scripts=base.scripts,
            keys=base.keys,
            rules=edits.rules,
            pictures=edits.pictures,
            bucket=bucket,
            dispatch=queueing.edit_loop.dispatch,
        ),
        rows=rows,
        rejects=rejects,
        result_writer=ResultWriter(rows, rejects, sheet, batches=batches, bucket=bucket, retention_s=retention_s),
        rollbacks=Rollbacks(
            batches=batches,
            reader=edits.job_reader,
            bucket=bucket,
            keys=base.keys,
            scripts=base.scripts,
            versions=edits.versions,
            settings=settings,
        ),
    )


def _schedules(base: Foundation, batches: BatchParts, webhooks: WebhookParts) -> ScheduleParts:
    redis, keys, bucket = base.redis, base.keys, base.bucket
    runs, seen = Runs(redis, keys, base.scripts), SeenObjects(redis, keys)
    webhooks.bodies.register("schedule", runs.data_of)
    schedules = Schedules(redis, keys, base.scripts, runs)
    changed = ChangedObjects(redis, keys, catalogue=base.catalogue, bucket=bucket, batches=batches.batches, seen=seen)
    submission = batches.batch_submission
    return ScheduleParts(
        schedules=schedules,
        runs=runs,
        seen=seen,
        changed_objects=changed,
        schedule_submission=ScheduleSubmission(schedules, seen, bucket, submission),
        run_to_batch=RunToBatch(keys, runs, schedules, batches.batches, submission, bucket, changed),
    )
