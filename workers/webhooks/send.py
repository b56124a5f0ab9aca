"""The task `deliver`: one attempt of a webhook delivery. Claim, sign, send, settle."""

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import httpx
import structlog
from celery import Celery
from celery.exceptions import Retry

from jobs.foundation.errors import ConfigurationError
from jobs.foundation.secret_box import SecretBox
from jobs.foundation.tracing import Spans, trace_id_of
from jobs.foundation.webhook_secrets import secrets_of, signature
from jobs.queueing.celery_app import DELIVER
from jobs.tenants.tenants import Tenants
from jobs.webhooks.deliveries import Deliveries, DeliveryAttempt
from jobs.webhooks.delivery_models import DeliveryState
from jobs.webhooks.delivery_scripts import LEASE_S
from jobs.webhooks.endpoint_models import open_headers
from jobs.webhooks.retry_policy import MAX_ANSWER_BYTES, Exchange, Verdict, judge
from workers.net.http import BodyLost, Http, Reach, retry_after_s
from workers.net.ssrf_guard import AddressRefused
from workers.process.store_retry import retry_while_store_down

EXCHANGE_S = 15.0
"""How long one exchange may take, from resolving the name to the answer's last byte, in seconds."""
CONNECT_S = 10.0
USER_AGENT = "retouch-webhooks"

T = TypeVar("T")
log = structlog.get_logger(__name__)


class NotDelivered(Exception):
    """A delivery is exhausted: its last attempt failed, or its receiver refuses all further deliveries."""


class WebhookSigner:
    """Makes the headers of webhook requests.

    Args:
        secret_box: decrypts secrets and headers.
        tenants: have the secrets of addresses that jobs and batches name.
        spans: make the trace context.
        now: the moment that is signed.
    """

    def __init__(
        self,
        secret_box: SecretBox,
        tenants: Tenants,
        spans: Spans,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._secret_box = secret_box
        self._tenants = tenants
        self._spans = spans
        self._now = now

    def headers(self, attempt: DeliveryAttempt) -> dict[str, str]:
        """The endpoint's own headers, and those of Standard Webhooks, which win.

        Raises:
            ConfigurationError: this worker cannot decrypt the secrets or headers.
        """
        now, queue = self._now(), attempt.queue
        if "secret" in queue:
            keys = secrets_of(queue, self._secret_box, now.timestamp() * 1000)
        else:
            keys = self._tenants.webhook_secrets(attempt.tenant)
        context = self._spans.traceparent(attempt.traceparent)
        return {
            **open_headers(queue, self._secret_box),
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            "webhook-id": attempt.event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signature(attempt.event_id, now, attempt.body, keys),
            **({"traceparent": context} if context else {}),
        }


class Deliverer:
    """Runs attempts of deliveries; one object serves all threads of a worker.

    Args:
        deliveries: claims and settles attempts.
        signer: makes the headers.
        http: the guarded clients.
        spans: makes the spans of traces.
        check_url: raises ValueError for an address that no webhook may be sent to.
        changed: called after each attempt: the plan may start another.
        exchange_s: see `EXCHANGE_S`.
        listeners: called with each exchange.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        signer: WebhookSigner,
        http: Http,
        spans: Spans,
        *,
        check_url: Callable[[str], None],
        changed: Callable[[], None],
        exchange_s: float = EXCHANGE_S,
        listeners: Sequence[Callable[[Exchange], None]] = (),
    ) -> None:
        self._deliveries = deliveries
        self._signer = signer
        self._http = http
        self._spans = spans
        self._check_url = check_url
        self._changed = changed
        self._exchange_s = exchange_s
        self._listeners = tuple(listeners)

    def deliver(self, delivery_id: str, number: int) -> str:
        """Run one attempt to its settlement.

        Returns:
            The receiver's answer, in words.

        Raises:
            Retry: there will be another attempt, or the message must be dropped. It publishes nothing.
            NotDelivered: there will be no other attempt.
            ConfigurationError: this worker cannot sign the request. Nothing was sent, and no try is used up.
        """
        attempt = _retrying(lambda: self._deliveries.claim(delivery_id, number))
        if attempt is None:
            raise Retry("dropped: the delivery has moved on")
        names = {"delivery_id": attempt.delivery_id, "event_id": attempt.event_id, "tenant": attempt.tenant}
        trace_id = trace_id_of(attempt.traceparent)
        if trace_id:
            names["trace_id"] = trace_id
        with (
            structlog.contextvars.bound_contextvars(**names),
            self._spans.span("deliver", parent=attempt.traceparent, delivery_id=attempt.delivery_id),
        ):
            return self._run(attempt)

    def _run(self, attempt: DeliveryAttempt) -> str:
        try:
            headers = self._signer.headers(attempt)
        except ConfigurationError:
            # The operator must correct this; the receiver must not lose a try by it. The attempt's lease ends, and
            # another worker, or this one after the correction, takes the delivery.
            log.exception("deliver.not_signed")
            raise
        exchange = self._send(attempt, headers)
        for listener in self._listeners:
            listener(exchange)
        verdict = judge(exchange, attempt.tries, random.random())  # noqa: S311 - jitter, no secret
        state = _retrying(lambda: self._deliveries.settle(attempt, exchange, verdict))
        self._changed()
        log.info(
            "deliver.tried",
            number=attempt.number,
            status=exchange.status,
            error=exchange.error,
            took_ms=exchange.took_ms,
            state=state,
        )
        return celery_result(attempt, exchange, verdict, state)

    def _send(self, attempt: DeliveryAttempt, headers: dict[str, str]) -> Exchange:
        started = time.monotonic()

        def took_ms() -> int:
            return round((time.monotonic() - started) * 1000)

        try:
            self._check_url(attempt.url)
            reply = self._http.exchange(
                "POST",
                attempt.url,
                reach=Reach.PUBLIC,
                deadline_s=self._exchange_s,
                connect_timeout_s=CONNECT_S,
                max_bytes=MAX_ANSWER_BYTES,
                headers=headers,
                content=attempt.body.encode(),
                cut=True,
            )
        except (AddressRefused, ValueError) as error:
            return Exchange(took_ms(), error=f"no webhook may be sent to this address: {error}")
        except BodyLost as error:
            return Exchange(took_ms(), status=error.status, error=str(error)[:MAX_ANSWER_BYTES])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Exchange(took_ms(), error=_described(error, self._exchange_s))
        return Exchange(
            took_ms(),
            status=reply.status,
            answer=reply.body.decode("utf-8", "replace"),
            retry_after_s=retry_after_s(reply.headers),
        )


def register_deliver(app: Celery, deliverer: Deliverer) -> None:
    """Register the task `deliver` with a worker's app."""

    @app.task(name=DELIVER, throws=(NotDelivered,))
    def deliver(delivery_id: str, number: int) -> str:
        """Run one attempt of a delivery. A failed attempt raises, so that Flower shows the failure."""
        return deliverer.deliver(delivery_id, number)


def celery_result(attempt: DeliveryAttempt, exchange: Exchange, verdict: Verdict, state: DeliveryState | None) -> str:
    """Translate the end of an attempt for Celery: a return is SUCCESS, an exception RETRY or FAILURE.

    Args:
        attempt: that has ended.
        exchange: with the receiver.
        verdict: what follows from the exchange.
        state: the delivery's; None where the fence refused the settlement.

    Raises:
        Retry: there will be another attempt, or the settlement was refused. It publishes nothing.
        NotDelivered: there will be no other attempt.
    """
    answer = exchange.error or f"the receiver answered {exchange.status}"
    if state is DeliveryState.SUCCEEDED:
        return f"the receiver answered {exchange.status}"
    failure = NotDelivered(answer)
    if state is DeliveryState.EXHAUSTED:
        raise failure
    if state is None or verdict.delay_ms is None:
        raise Retry("dropped: the delivery has moved on", exc=failure)
    raise Retry(answer, exc=failure, when=timedelta(milliseconds=verdict.delay_ms) + attempt.at)


def _retrying(step: Callable[[], T]) -> T:
    """Repeat a step while the store is down, for as long as a lease lives: a lost settlement means a second delivery.

    Raises:
        RedisError: the store was down for too long.
    """
    ends = time.monotonic() + LEASE_S
    return retry_while_store_down(step, pause=time.sleep, give_up=lambda: time.monotonic() >= ends)


def _described(error: Exception, exchange_s: float) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx.TimeoutException):
        return f"no whole answer within {exchange_s:g} s"
    return (str(error) or type(error).__name__)[:MAX_ANSWER_BYTES]
