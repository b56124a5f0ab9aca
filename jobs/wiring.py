"""The domain as one process holds it: everything of `jobs`, wired from the settings."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
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
from jobs.edits.reader import Store
from jobs.edits.reuse import Reuse
from jobs.edits.rules import JobRules
from jobs.edits.submission import JobSubmission
from jobs.edits.uploads import UploadedPictures
from jobs.foundation.redis_client import connect
from jobs.foundation.redis_keys import Keys
from jobs.foundation.secret_box import Seal
from jobs.foundation.settings import Settings
from jobs.foundation.tracing import Spans, open_spans
from jobs.operations.index_cleanup import Tidying
from jobs.operations.stats import Stats
from jobs.plan.planner import Planner
from jobs.plan.records import Dispatch
from jobs.plan.script_runner import ScriptRunner
from jobs.queueing.background_tasks import LEASE_S, Chores
from jobs.queueing.celery_app import make_celery
from jobs.queueing.dispatch_loop import DispatchLoop
from jobs.queueing.publisher import ChorePublisher, Publisher
from jobs.schedules.changed_objects import ChangedObjects
from jobs.schedules.run_to_batch import RunToBatch
from jobs.schedules.runs import Runs
from jobs.schedules.schedules import Schedules
from jobs.schedules.seen_objects import SeenObjects
from jobs.schedules.submission import ScheduleSubmission
from jobs.storage.bucket import Bucket
from jobs.tenants.tenants import Tenants
from jobs.webhooks.deliveries import Deliveries
from jobs.webhooks.delivery_reader import DeliveryLog
from jobs.webhooks.endpoints import Endpoints
from jobs.webhooks.payloads import Bodies


@dataclass(frozen=True)
class Domain:
    """What a process of Retouch works with. Every part may be used by many threads at once."""

    settings: Settings
    catalogue: Catalogue
    redis: Redis
    keys: Keys
    planner: Planner
    store: Store
    status: Status
    tenants: Tenants
    tidying: Tidying
    bucket: Bucket
    celery: Celery
    publisher: Publisher
    edit_loop: DispatchLoop[Dispatch]
    delivery_loop: DispatchLoop[tuple[str, int]]
    seal: Seal
    deliveries: Deliveries
    bodies: Bodies
    endpoints: Endpoints
    delivery_log: DeliveryLog
    batches: Batches
    chores: Chores
    schedules: Schedules
    runs: Runs
    seen: SeenObjects
    reuse: Reuse
    stats: Stats
    spans: Spans
    job_submission: JobSubmission
    batch_submission: BatchSubmission
    ingest: Ingest
    chore_publisher: ChorePublisher
    scripts: ScriptRunner
    rows: BatchRows
    rejects: RejectFiles
    result_writer: ResultWriter
    versions: OutputVersions
    rollbacks: Rollbacks
    changed_objects: ChangedObjects
    schedule_submission: ScheduleSubmission
    run_to_batch: RunToBatch

    @classmethod
    def open(cls, settings: Settings, *, clock_ms: Callable[[], int] | None = None) -> Self:
        """Wire the domain. It connects to a store when it is used first.

        Args:
            settings: of the process.
            clock_ms: milliseconds since 1970 that scripts go by, for tests; by default the server's own clock.

        Raises:
            ConfigurationError: the catalogue cannot be used.
        """
        catalogue = load_catalogue(settings.config)
        redis = connect(settings)
        keys = Keys(settings.key_prefix)
        retention_s = settings.retention_s
        scripts = ScriptRunner(redis, keys, retention_s=retention_s, lease_s=settings.lease_s, clock_ms=clock_ms)
        planner = Planner(redis, keys, catalogue, scripts)
        seal, bucket = Seal(settings.secret_key), Bucket(settings)
        status = Status(redis, keys, catalogue)
        deliveries = Deliveries(
            redis,
            keys,
            retention_s=retention_s,
            lease_s=max(settings.lease_s, settings.webhook_timeout_s + 2),
            clock_ms=clock_ms,
        )
        endpoints = Endpoints(redis, keys, settings, seal, deliveries)
        batches = Batches(redis, keys, catalogue, scripts, status)
        runs = Runs(redis, keys, scripts)
        bodies = Bodies(redis, keys, bucket)
        bodies.register("schedule", runs.data_of)
        for kind, data_of in (("endpoint", endpoints.data_of), ("model", status.data_of), ("batch", batches.data_of)):
            bodies.register(kind, data_of)
        store, spans = Store(redis, keys), open_spans()
        celery = make_celery(settings)
        publisher = Publisher(celery)
        edit_loop = DispatchLoop(planner.plan, publisher.publish_edits)
        chores = Chores(scripts, keys, lease_s=min(LEASE_S, settings.lease_s))
        chore_publisher = ChorePublisher(publisher, chores)
        pictures = UploadedPictures(bucket, settings)
        rules = JobRules(catalogue, settings, pictures)
        batch_submission = BatchSubmission(
            rules, batches=batches, bucket=bucket, settings=settings, publisher=chore_publisher, spans=spans
        )
        rows, rejects = BatchRows(batches, store, bucket, retention_s=retention_s), RejectFiles(batches, bucket)
        versions = OutputVersions(redis, keys, scripts)
        schedules, seen = Schedules(redis, keys, scripts, runs), SeenObjects(redis, keys)
        changed = ChangedObjects(redis, keys, catalogue=catalogue, bucket=bucket, batches=batches, seen=seen)
        return cls(
            settings=settings,
            catalogue=catalogue,
            redis=redis,
            keys=keys,
            planner=planner,
            store=store,
            status=status,
            tenants=make_tenants(redis, settings),
            tidying=Tidying(redis, keys),
            bucket=bucket,
            celery=celery,
            publisher=publisher,
            edit_loop=edit_loop,
            delivery_loop=DispatchLoop(deliveries.plan, publisher.publish_deliveries),
            seal=seal,
            deliveries=deliveries,
            bodies=bodies,
            endpoints=endpoints,
            delivery_log=DeliveryLog(redis, keys),
            batches=batches,
            chores=chores,
            schedules=schedules,
            runs=runs,
            seen=seen,
            reuse=Reuse(redis, keys, retention_s=retention_s),
            stats=Stats(redis, keys, catalogue, scripts, status),
            spans=spans,
            job_submission=JobSubmission(
                rules, pictures, planner=planner, dispatch=edit_loop.dispatch, store=store, spans=spans
            ),
            batch_submission=batch_submission,
            ingest=Ingest(
                batches=batches,
                planner=planner,
                scripts=scripts,
                keys=keys,
                rules=rules,
                pictures=pictures,
                bucket=bucket,
                dispatch=edit_loop.dispatch,
            ),
            chore_publisher=chore_publisher,
            scripts=scripts,
            rows=rows,
            rejects=rejects,
            result_writer=ResultWriter(
                rows, rejects, ContactSheet(rows, bucket), batches=batches, bucket=bucket, retention_s=retention_s
            ),
            versions=versions,
            rollbacks=Rollbacks(
                batches=batches,
                reader=store,
                bucket=bucket,
                keys=keys,
                scripts=scripts,
                versions=versions,
                settings=settings,
            ),
            changed_objects=changed,
            schedule_submission=ScheduleSubmission(schedules, seen, bucket, batch_submission),
            run_to_batch=RunToBatch(keys, runs, schedules, batches, batch_submission, bucket, changed),
        )

    def close(self) -> None:
        """Let go of every connection."""
        self.celery.close()
        self.bucket.close()
        self.redis.close()


def make_tenants(redis: Redis, settings: Settings) -> Tenants:
    """The tenants in a store, with their secrets encrypted at rest where the settings have a key for it.

    Raises:
        ConfigurationError: RETOUCH_SECRET_KEY is too short.
    """
    return Tenants(redis, Keys(settings.key_prefix), Seal(settings.secret_key))


@contextmanager
def open_tenants(settings: Settings) -> Iterator[Tenants]:
    """The tenants alone, for commands that need no other part; the connection is closed at the end.

    Raises:
        ConfigurationError: RETOUCH_SECRET_KEY is too short.
    """
    with closing(connect(settings)) as redis:
        yield make_tenants(redis, settings)
