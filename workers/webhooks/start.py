"""What a worker of the queue `webhooks` does besides serving it: it knows the task `deliver`, and it is a teller."""

import threading
from collections.abc import Callable, Sequence

from celery import Celery

from jobs.webhooks.retry_policy import Exchange
from jobs.wiring import Domain
from workers.net.http import Http
from workers.webhooks.outbox_reader import Teller
from workers.webhooks.send import Deliverer, register_deliver


def start_telling(
    app: Celery, domain: Domain, *, threads: int, name: str, listeners: Sequence[Callable[[Exchange], None]] = ()
) -> Callable[..., None]:
    """Make `deliver` known to a worker's app, and start the teller's threads.

    Args:
        app: the worker's.
        domain: what the process works with.
        threads: the worker's.
        name: the worker's, one of a kind.
        listeners: told of each exchange with a receiver.

    Returns:
        What ends the teller: tries that are under way go on. It may be connected to a signal of Celery's.
    """
    teller = Teller(domain, threads=threads, name=name)
    http = Http(domain.settings.private_networks)
    register_deliver(
        app,
        Deliverer(
            domain, http, changed=teller.changed, exchange_s=domain.settings.webhook_timeout_s, listeners=listeners
        ),
    )
    stop = threading.Event()
    threading.Thread(target=teller.run, args=(stop,), name="teller", daemon=True).start()

    def end(**_: object) -> None:
        stop.set()
        teller.changed()

    return end
