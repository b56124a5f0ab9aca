"""Waits for the end of jobs without blocking a thread. Each process has one pub/sub connection."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from fastapi import Request
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from jobs.edits.reader import JobReader
from jobs.foundation.errors import Unavailable
from jobs.foundation.job_states import FINAL
from jobs.foundation.redis_keys import Keys
from jobs.records.job_models import Job

REREAD_S = 5.0
"""A waiting request reads its job at this interval even without a notice, because notices can be lost."""
CONFIRM_S = 1.0
"""The longest wait for Redis to confirm a subscription before the job is read anyway."""
RECONNECT_S = 0.5

log = structlog.get_logger(__name__)


class JobWaiter:
    """Waits until jobs are final, for any number of requests at once.

    Enter it (`async with`) in the event loop that serves the requests.
    """

    def __init__(self, reader: JobReader, keys: Keys, redis_url: str) -> None:
        self._reader = reader
        self._redis_url = redis_url
        self._channel = keys.final_channel
        self._idle = keys.final_channel("none")  # keeps the connection subscribed when no request waits
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._confirmed: dict[str, asyncio.Event] = {}
        self._pubsub: PubSub | None = None
        self._write_lock = asyncio.Lock()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "JobWaiter":
        self._loop = asyncio.get_running_loop()
        self._listener = asyncio.create_task(self._listen(), name="notices")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener

    @property
    def stopping(self) -> bool:
        """Whether the process is shutting down."""
        return self._stopping

    def stop(self) -> None:
        """End all waits: each request returns its job as it is. Signal handlers and other threads may call it."""
        self._stopping = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake_all)

    async def until_final(self, tenant: str, job_id: str, seconds: float) -> Job:
        """The job as soon as it is final; otherwise as it is after `seconds` or at shutdown.

        Errors of Redis are retried until the time is up.

        Raises:
            NotFound: the tenant has no such job.
            Unavailable, redis.exceptions.RedisError: Redis did not answer when the time was up.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        async with self._watch(job_id) as notice:
            while True:
                notice.clear()
                left = deadline - loop.time()
                last_read = left <= 0 or self._stopping
                try:
                    job: Job = await run_in_threadpool(self._reader.get, tenant, job_id)
                except (RedisError, Unavailable):
                    if last_read:
                        raise
                    left = min(left, RECONNECT_S)
                else:
                    if last_read or job.state in FINAL:
                        return job
                with suppress(TimeoutError):
                    await asyncio.wait_for(notice.wait(), min(left, REREAD_S))

    @asynccontextmanager
    async def _watch(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        channel = self._channel(job_id)
        notice = asyncio.Event()
        self._waiters[channel].add(notice)
        try:
            confirmed = self._confirmed.get(channel)
            if confirmed is None:
                confirmed = self._confirmed[channel] = asyncio.Event()
                await self._send("subscribe", channel)
            # The job must be read after the subscription. Otherwise it could become final in between, unnoticed.
            with suppress(TimeoutError):
                await asyncio.wait_for(confirmed.wait(), CONFIRM_S)
            yield notice
        finally:
            self._waiters[channel].discard(notice)
            if not self._waiters[channel]:
                del self._waiters[channel]
                self._confirmed.pop(channel, None)
                await asyncio.shield(self._send("unsubscribe", channel))

    async def _send(self, command: str, channel: str) -> None:
        async with self._write_lock:
            if self._pubsub is None or (command == "unsubscribe" and channel in self._waiters):
                return
            # If the connection breaks here, the listener reconnects and subscribes to every channel again.
            with suppress(RedisError, OSError):
                await getattr(self._pubsub, command)(channel)

    async def _listen(self) -> None:
        redis = Redis.from_url(
            self._redis_url,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=10,
            socket_connect_timeout=5,
            client_name="retouch-api-notices",
        )
        lost = False
        try:
            while True:
                try:
                    async with redis.pubsub() as pubsub:
                        async with self._write_lock:  # a waiter that arrives later subscribes after this
                            self._pubsub = pubsub
                            await pubsub.subscribe(self._idle, *self._waiters)
                        if lost:
                            lost = False
                            log.info("notices.resumed")
                            self._wake_all()  # notices published in the meantime were lost
                        await self._read(pubsub)
                except (RedisError, OSError) as error:
                    if not lost:
                        log.warning("notices.interrupted", error=str(error))
                    lost = True
                    await asyncio.sleep(RECONNECT_S)
                finally:
                    self._pubsub = None
        finally:
            await redis.aclose()

    async def _read(self, pubsub: PubSub) -> None:
        while True:
            message = await pubsub.get_message(timeout=REREAD_S)
            if message is None:
                continue
            if message["type"] == "subscribe" and message["channel"] in self._confirmed:
                self._confirmed[message["channel"]].set()
            elif message["type"] == "message":
                for notice in self._waiters.get(message["channel"], ()):
                    notice.set()

    def _wake_all(self) -> None:
        for notices in self._waiters.values():
            for notice in notices:
                notice.set()


async def disconnected(request: Request) -> None:
    """Return when the client disconnects. The request's body must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def until_final_or_gone(waiter: JobWaiter, request: Request, tenant: str, job_id: str, seconds: float) -> Job:
    """`JobWaiter.until_final`, canceled when the client disconnects.

    Raises:
        ClientGone: the client disconnected first.
    """
    wait = asyncio.create_task(waiter.until_final(tenant, job_id, seconds))
    gone = asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait({wait, gone}, return_when=asyncio.FIRST_COMPLETED)
        if wait.done():
            return wait.result()
        raise ClientGone
    finally:
        for task in (wait, gone):
            task.cancel()
        await asyncio.gather(wait, gone, return_exceptions=True)


class ClientGone(Exception):
    """The client closed its connection while its request waited."""
