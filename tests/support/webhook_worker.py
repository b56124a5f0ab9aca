"""A webhook worker without Celery: it tells all there is to tell, in the test's own thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from celery.exceptions import Retry

from jobs.wiring import Domain
from workers.net.http import Http
from workers.net.ssrf_guard import Resolve, resolve
from workers.process.wiring import build_deliverer, build_outbox_reader
from workers.webhooks.send import NotDelivered


class Hand:
    """One outbox reader and one deliverer."""

    def __init__(self, domain: Domain, http: Http, exchange_s: float) -> None:
        self._domain = domain
        self._reader = build_outbox_reader(domain, threads=8)
        self._deliverer = build_deliverer(domain, changed=lambda: None, http=http, exchange_s=exchange_s)

    def tell(self) -> list[str]:
        """Tell all that is due; the outcomes of the tries as Celery would see them."""
        outcomes = []
        while self._reader.read_now():
            pass
        while started := self._domain.deliveries.plan().dispatches:
            for one in started:
                try:
                    outcomes.append(self._deliverer.deliver(*one))
                except Retry as retry:
                    outcomes.append(f"retry: {retry.message}")
                except NotDelivered as failure:
                    outcomes.append(f"failure: {failure}")
        return outcomes


@contextmanager
def hand_of(domain: Domain, *, exchange_s: float = 15, resolve: Resolve = resolve) -> Iterator[Hand]:
    """A hand that tells, with a resolver and an exchange's length of its own."""
    http = Http(domain.settings.private_networks, resolve=resolve)
    yield Hand(domain, http, exchange_s)
    http.close()


@contextmanager
def telling(domain: Domain) -> Iterator[None]:
    """A hand that goes on telling in a thread of its own."""
    stop = threading.Event()

    def work(hand: Hand) -> None:
        while not stop.wait(0.02):
            hand.tell()

    with hand_of(domain) as hand:
        thread = threading.Thread(target=work, args=(hand,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
