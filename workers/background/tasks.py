"""The tasks `ingest`, `sweep` and `results`, and the look-out that publishes what nobody does."""

import threading
from collections.abc import Callable
from contextlib import suppress

import structlog
from celery import Celery
from celery.exceptions import Ignore, Retry
from redis.exceptions import RedisError
from structlog.contextvars import bound_contextvars

from jobs.batches.manifests.columns import ManifestFault
from jobs.foundation.errors import NotFound, Unavailable
from jobs.queueing.background_tasks import Held, Kind, Lost, PutOff
from jobs.wiring import Domain
from workers.background.download_manifest import ManifestUnavailable, keep_from_web
from workers.net.http import Http

LOOK_S = 2.0
"""How often each worker looks for chores that are due."""
STORE_PAUSE_S = 5.0
WEB_PAUSE_S = 30.0

THROWS = (Lost, ManifestFault)
"""What ends a chore without being a fault of ours."""

log = structlog.get_logger(__name__)


def start_looking(domain: Domain) -> Callable[..., None]:
    """Publish due chores, also those whose message was lost with the broker; returns what ends it."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_S):
            domain.chore_publisher.publish_due()

    threading.Thread(target=look, name="chores", daemon=True).start()
    return lambda **_: stop.set()


def register_chores(app: Celery, domain: Domain) -> None:
    """Make the tasks known to a worker's app. Each may run twice or late: what it writes is fenced."""
    http = Http(domain.settings.private_networks)

    @app.task(name=Kind.INGEST.value, throws=THROWS, shared=False)
    def ingest(batch_id: str) -> str:
        """Read a manifest into jobs."""
        return _done(domain, Kind.INGEST, batch_id, lambda held: _ingest(domain, http, batch_id, held))

    @app.task(name=Kind.SWEEP.value, throws=THROWS, shared=False)
    def sweep(batch_id: str) -> str:
        """Let the jobs of a canceled or retried batch follow."""
        return _done(domain, Kind.SWEEP, batch_id, lambda held: _sweep(domain, batch_id, held))

    @app.task(name=Kind.RUN.value, throws=THROWS, shared=False)
    def run(run_id: str) -> str:
        """Make the batch of a schedule's run, or take note of its end."""
        return _done(domain, Kind.RUN, run_id, lambda held: domain.run_to_batch.work_on(run_id, held))

    @app.task(name=Kind.ROLLBACK.value, throws=THROWS, shared=False)
    def rollback(batch_id: str) -> str:
        """Point a batch's output keys back to the versions before."""
        return _done(domain, Kind.ROLLBACK, batch_id, lambda held: domain.rollbacks.run(batch_id, held))

    @app.task(name=Kind.RESULTS.value, throws=THROWS, shared=False)
    def results(batch_id: str) -> str:
        """Write an ended batch's record into the bucket."""
        return _done(domain, Kind.RESULTS, batch_id, lambda held: _keep(domain, batch_id, held))


def _done(domain: Domain, kind: Kind, batch_id: str, do: Callable[[Held], object]) -> str:
    """Do a chore if it is to be done. What it raises is what Flower shows.

    Raises:
        Retry: it cannot go on now and is due again soon.
        Ignore: this message is not the one to do it.
        Lost: another worker has taken it over.
        ManifestFault: the manifest cannot be read, or not further.
    """
    with domain.chores.hold(kind, batch_id) as held:
        if held is None:
            # Flower knows all messages of a chore as one task: the one that does it tells how it went.
            raise Ignore("dropped: another worker is at it, or it is done")
        with bound_contextvars(kind=kind, batch_id=batch_id, **_owner(domain, batch_id)):
            _attempt(domain, held, do)
    domain.chore_publisher.publish_due()
    return "done"


def _owner(domain: Domain, batch_id: str) -> dict[str, str]:
    """Whose batch or run it is, for the log alone: without it the chore is done all the same."""
    with suppress(RedisError):
        if tenant := domain.redis.hget(domain.keys.batch(batch_id), "tenant"):
            return {"tenant": str(tenant)}
    return {}


def _attempt(domain: Domain, held: Held, do: Callable[[Held], object]) -> None:
    log.info("chore.begun", number=held.number)
    try:
        _do(held, do)
    except PutOff as put_off:
        log.info("chore.put_off", why=str(put_off))
        raise Retry(str(put_off), exc=put_off) from put_off
    except RedisError as error:
        # Its lease ends by itself, and with that it is due again.
        log.warning("chore.store_unreachable", error=str(error))
        raise Retry(str(error), exc=error) from error
    except ManifestFault as fault:
        log.info("chore.failed", why=str(fault))
        domain.chore_publisher.publish_due()
        raise
    log.info("chore.ended")


def _do(held: Held, do: Callable[[Held], object]) -> None:
    try:
        do(held)
    except Unavailable:
        held.put_off(STORE_PAUSE_S, "the bucket does not answer")


def _ingest(domain: Domain, http: Http, batch_id: str, held: Held) -> None:
    reading = domain.ingest.open(batch_id, held)
    if reading is None:
        return
    record = reading.record
    if record["source"] == "web":
        try:
            keep_from_web(domain, http, batch_id, record["tenant"], record["manifest"])
        except ManifestUnavailable as error:
            held.put_off(WEB_PAUSE_S, str(error))
        except ManifestFault as fault:
            reading.fail(fault)
    reading.run()


def _sweep(domain: Domain, batch_id: str, held: Held) -> None:
    while domain.batches.sweep(batch_id, held.number) == 0:
        held.check()
        domain.edit_loop.dispatch()
    domain.edit_loop.dispatch()


def _keep(domain: Domain, batch_id: str, held: Held) -> None:
    tenant = domain.batches.record(batch_id).get("tenant")
    if tenant is None:
        return
    try:
        domain.result_writer.write(domain.batches.get(tenant, batch_id), held)
    except NotFound:
        log.info("chore.batch_gone", batch_id=batch_id)
