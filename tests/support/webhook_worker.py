"""A webhook worker without Celery, in the test's own thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from celery.exceptions import Retry

from jobs.wiring import Domain
from workers.net.http import Http
from workers.net.ssrf_guard import Resolve, resolve
from workers.process.wiring import build_deliverer, build_outbox_reader
from workers.webhooks.send import NotDelivered


class WebhookRunner:
    """One outbox reader and one deliverer."""

    def __init__(self, domain: Domain, http: Http, exchange_s: float) -> None:
        self._domain = domain
        self._reader = build_outbox_reader(domain, threads=8)
        self._deliverer = build_deliverer(domain, changed=lambda: None, http=http, exchange_s=exchange_s)

    def deliver_all(self) -> list[str]:
        """Deliver all that is due. Returns the results of the attempts as Celery would show them."""
        results = []
        while self._reader.read_now():
            pass
        while started := self._domain.deliveries.plan().dispatches:
            for dispatch in started:
                try:
                    results.append(self._deliverer.deliver(*dispatch))
                except Retry as retry:
                    results.append(f"retry: {retry.message}")
                except NotDelivered as failure:
                    results.append(f"failure: {failure}")
        return results


@contextmanager
def webhook_runner(domain: Domain, *, exchange_s: float = 15, resolve: Resolve = resolve) -> Iterator[WebhookRunner]:
    """A runner with its own resolver; one exchange takes at most `exchange_s` seconds."""
    http = Http(domain.settings.private_networks, resolve=resolve)
    yield WebhookRunner(domain, http, exchange_s)
    http.close()


@contextmanager
def deliver_in_background(domain: Domain) -> Iterator[None]:
    """Deliver continuously in a thread."""
    stop = threading.Event()

    def work(runner: WebhookRunner) -> None:
        while not stop.wait(0.02):
            runner.deliver_all()

    with webhook_runner(domain) as runner:
        thread = threading.Thread(target=work, args=(runner,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
