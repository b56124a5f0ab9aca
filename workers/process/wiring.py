"""Builds the parts of a worker from the domain. Only this module and `workers.process.app` know the whole domain."""

from collections.abc import Callable, Sequence
from functools import partial

from jobs.events.outbox import Outbox
from jobs.foundation.webhook_url_policy import check_webhook_url
from jobs.webhooks.retry_policy import Exchange
from jobs.webhooks.routing import EventRouter
from jobs.wiring import Domain
from workers.background.index_cleanup import IndexCleanup
from workers.background.schedule_poller import SchedulePoller
from workers.background.tasks import BackgroundTaskRunner, BatchWork
from workers.edits.active_attempts import ActiveAttempts
from workers.edits.attempt_steps import StepTools
from workers.edits.fetch_input import InputFetcher
from workers.edits.reuse import EqualEdits
from workers.edits.store_result import ResultStore
from workers.edits.task import Editor
from workers.net.http import Http
from workers.process.timings import Listener
from workers.webhooks.outbox_reader import OutboxReader
from workers.webhooks.send import Deliverer, WebhookSigner


def build_editor(domain: Domain, active: ActiveAttempts, worker: str, *, listeners: Sequence[Listener] = ()) -> Editor:
    """The editor of a worker.

    Args:
        domain: the parts of `jobs`.
        active: the attempts of the worker.
        worker: its name.
        listeners: called with the report of each attempt that has ended.
    """
    http = Http(domain.settings.private_networks)
    results = ResultStore(domain.bucket, domain.versions, domain.settings.allowed_buckets)
    fetcher = InputFetcher(http, domain.bucket, domain.settings)
    tools = StepTools(
        planner=domain.planner,
        bucket=domain.bucket,
        results=results,
        equal_edits=EqualEdits(fetcher, domain.reuse, domain.bucket, results),
        http=http,
        spans=domain.spans,
        active=active,
    )
    return Editor(tools, domain.catalogue, worker, listeners=listeners)


def build_background_tasks(domain: Domain) -> BackgroundTaskRunner:
    """The background tasks of a worker."""
    work = BatchWork(
        batches=domain.batches,
        bucket=domain.bucket,
        http=Http(domain.settings.private_networks),
        ingest=domain.ingest,
        runs=domain.run_to_batch,
        rollbacks=domain.rollbacks,
        results=domain.result_writer,
        dispatch=domain.edit_loop.dispatch,
    )
    return BackgroundTaskRunner(domain.background_tasks, domain.task_publisher, work, domain.redis, domain.keys)


def build_outbox_reader(domain: Domain, *, threads: int, name: str | None = None) -> OutboxReader:
    """The outbox reader of a worker.

    Args:
        domain: the parts of `jobs`.
        threads: the worker's threads for deliveries.
        name: the worker's; generated unless given.
    """
    return OutboxReader(
        Outbox(domain.redis, domain.keys),
        EventRouter(domain.redis, domain.keys),
        domain.bodies,
        domain.deliveries,
        domain.digests,
        dispatch=domain.delivery_loop.dispatch,
        threads=threads,
        name=name,
    )


def build_deliverer(
    domain: Domain,
    *,
    changed: Callable[[], None],
    http: Http | None = None,
    exchange_s: float | None = None,
    listeners: Sequence[Callable[[Exchange], None]] = (),
) -> Deliverer:
    """The deliverer of a worker.

    Args:
        domain: the parts of `jobs`.
        changed: called after each attempt.
        http: the guarded clients; new ones unless given.
        exchange_s: how long one exchange may take, in seconds; the setting `webhook_timeout_s` unless given.
        listeners: called with each exchange.
    """
    settings = domain.settings
    return Deliverer(
        domain.deliveries,
        WebhookSigner(domain.secret_box, domain.tenants, domain.spans),
        http or Http(settings.private_networks),
        domain.spans,
        check_url=partial(check_webhook_url, settings=settings),
        changed=changed,
        exchange_s=settings.webhook_timeout_s if exchange_s is None else exchange_s,
        listeners=listeners,
    )


def build_schedule_poller(domain: Domain) -> SchedulePoller:
    """The schedule poller of a worker."""
    return SchedulePoller(domain.schedules, domain.task_publisher)


def build_index_cleanup(domain: Domain) -> IndexCleanup:
    """The index cleanup of a worker."""
    return IndexCleanup(domain.redis, domain.keys, domain.index_cleaner)
