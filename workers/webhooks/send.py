"""One try of a delivery: claim, sign, send, settle."""

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import httpx
import structlog
from celery import Celery
from celery.exceptions import Retry
from redis.exceptions import RedisError

from jobs.foundation.errors import ConfigurationError
from jobs.foundation.tracing import trace_id_of
from jobs.foundation.webhook_secrets import secrets_of, signature
from jobs.foundation.webhook_url_policy import check_webhook_url
from jobs.queueing.broker import DELIVER
from jobs.webhooks.deliveries import LEASE_S, Telling
from jobs.webhooks.delivery_models import DeliveryState
from jobs.webhooks.endpoint_models import open_headers
from jobs.webhooks.retry_policy import MOST_KEPT, Exchange, Verdict, judge
from jobs.wiring import Domain
from workers.net.http import BodyLost, Http, Reach, retry_after_s
from workers.net.ssrf_guard import AddressRefused

EXCHANGE_S = 15.0
"""For the whole exchange, from the name's resolution to the answer's last byte."""
CONNECT_S = 10.0
STORE_PAUSE_S = 0.5
USER_AGENT = "retouch-webhooks"

T = TypeVar("T")
log = structlog.get_logger(__name__)


class NotDelivered(Exception):
    """A delivery has been exhausted: its last try failed, or its receiver wants nothing any more."""


class Deliverer:
    """Runs tries; one object serves all threads of a worker.

    Args:
        domain: what the process works with.
        http: the guarded clients.
        changed: called after each try: there may be something to start.
        exchange_s: see `EXCHANGE_S`.
        now: the moment that is signed.
        listeners: told of each exchange.
    """

    def __init__(
        self,
        domain: Domain,
        http: Http,
        *,
        changed: Callable[[], None],
        exchange_s: float = EXCHANGE_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        listeners: Sequence[Callable[[Exchange], None]] = (),
    ) -> None:
        self._domain = domain
        self._http = http
        self._changed = changed
        self._exchange_s = exchange_s
        self._now = now
        self._listeners = tuple(listeners)

    def deliver(self, delivery_id: str, number: int) -> str:
        """Run one try to its settlement.

        Raises:
            Retry: there will be another try, or this message was not the one to do it. It publishes nothing.
            NotDelivered: there will be none.
            ConfigurationError: this worker cannot sign it. Nothing was sent, and no try is used up.
        """
        telling = _insist(lambda: self._domain.deliveries.claim(delivery_id, number))
        if telling is None:
            raise Retry("dropped: the delivery has moved on")
        names = {"delivery_id": telling.delivery_id, "event_id": telling.event_id, "tenant": telling.tenant}
        if trace_id_of(telling.traceparent):
            names["trace_id"] = str(trace_id_of(telling.traceparent))
        with (
            structlog.contextvars.bound_contextvars(**names),
            self._domain.spans.span("deliver", parent=telling.traceparent, delivery_id=telling.delivery_id),
        ):
            return self._tell(telling)

    def _tell(self, telling: Telling) -> str:
        try:
            headers = self._headers(telling)
        except ConfigurationError:
            # The operator's fault, which must not be charged to the receiver: the try is left alone until its lease
            # ends, and then another worker, or this one once it is mended, takes it up.
            log.exception("deliver.not_signed")
            raise
        exchange = self._send(telling, headers)
        for listener in self._listeners:
            listener(exchange)
        verdict = judge(exchange, telling.tries, random.random())  # noqa: S311 - jitter, no secret
        state = _insist(lambda: self._domain.deliveries.settle(telling, exchange, verdict))
        self._changed()
        return _told_to_celery(telling, exchange, verdict, state)

    def _send(self, telling: Telling, headers: dict[str, str]) -> Exchange:
        begun = time.monotonic()

        def took_ms() -> int:
            return round((time.monotonic() - begun) * 1000)

        try:
            check_webhook_url(telling.url, self._domain.settings)
            reply = self._http.exchange(
                "POST",
                telling.url,
                reach=Reach.PUBLIC,
                deadline_s=self._exchange_s,
                connect_timeout_s=CONNECT_S,
                max_bytes=MOST_KEPT,
                headers=headers,
                content=telling.body.encode(),
                cut=True,
            )
        except (AddressRefused, ValueError) as error:
            return Exchange(took_ms(), error=f"the address may not be told: {error}")
        except BodyLost as error:
            return Exchange(took_ms(), status=error.status, error=str(error)[:MOST_KEPT])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Exchange(took_ms(), error=_in_words(error, self._exchange_s))
        return Exchange(
            took_ms(),
            status=reply.status,
            answer=reply.body.decode("utf-8", "replace"),
            retry_after_s=retry_after_s(reply.headers),
        )

    def _headers(self, telling: Telling) -> dict[str, str]:
        """An endpoint's own headers, and those of Standard Webhooks over them."""
        now, line, secret_box = self._now(), telling.line, self._domain.secret_box
        if "secret" in line:
            keys = secrets_of(line, secret_box, now.timestamp() * 1000)
        else:
            keys = self._domain.tenants.webhook_secrets(telling.tenant)
        return {
            **open_headers(line, secret_box),
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            "webhook-id": telling.event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signature(telling.event_id, now, telling.body, keys),
            **({"traceparent": context} if (context := self._domain.spans.traceparent(telling.traceparent)) else {}),
        }


def register_deliver(app: Celery, deliverer: Deliverer) -> None:
    """Make the task `deliver` known to a worker's app."""

    @app.task(name=DELIVER, throws=(NotDelivered,))
    def deliver(delivery_id: str, number: int) -> str:
        """One try of a delivery. It raises where the try failed, so that Flower shows what was."""
        return deliverer.deliver(delivery_id, number)


def _told_to_celery(telling: Telling, exchange: Exchange, verdict: Verdict, state: DeliveryState | None) -> str:
    said = exchange.error or f"the receiver answered {exchange.status}"
    log.info(
        "deliver.tried",
        number=telling.number,
        status=exchange.status,
        error=exchange.error,
        took_ms=exchange.took_ms,
        state=state,
    )
    if state is DeliveryState.SUCCEEDED:
        return f"the receiver answered {exchange.status}"
    failure = NotDelivered(said)
    if state is DeliveryState.EXHAUSTED:
        raise failure
    if state is None or verdict.delay_ms is None:
        raise Retry("dropped: the delivery has moved on", exc=failure)
    raise Retry(said, exc=failure, when=timedelta(milliseconds=verdict.delay_ms) + telling.at)


def _insist(step: Callable[[], T]) -> T:
    """Do a step that needs the store. It is waited for as long as a lease lives, else what was told is told twice.

    Raises:
        RedisError: it was away for too long.
    """
    ends = time.monotonic() + LEASE_S
    while True:
        try:
            return step()
        except RedisError as error:
            if time.monotonic() >= ends:
                raise
            log.warning("deliver.store_unreachable", error=str(error))
            time.sleep(STORE_PAUSE_S)


def _in_words(error: Exception, exchange_s: float) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx.TimeoutException):
        return f"no whole answer within {exchange_s:g} s"
    return (str(error) or type(error).__name__)[:MOST_KEPT]
