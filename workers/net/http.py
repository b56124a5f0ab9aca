"""The workers' HTTP client: guarded where a user names the address, bounded in time and size everywhere.

Each thread has its own clients: a request searches its connection pool linearly, which is slow for a pool that a
hundred threads share. All clients share one TLS context, which is expensive to make.
"""

import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from jobs.foundation.address_policy import Network, check_url, lies_in, may_reach
from workers.net.ssrf_guard import AddressRefused, Clock, GuardedBackend, GuardedTransport, Resolve, resolve

USER_AGENT = "retouch"


FOREIGN = (httpx.HTTPError, httpx.StreamError, httpx.CookieConflict)
"""The exceptions of httpx, except `httpx.InvalidURL`."""


class Reach(Enum):
    """Which addresses a request may go to."""

    OPERATOR = "operator"
    """Anywhere: the operator configured the address, which may be private."""
    PUBLIC = "public"
    """Public addresses and the private networks that the operator allowed: an endpoint named the address."""
    USER = "user"
    """The same; without TLS only those private networks: a user named the address."""


class TooLong(Exception):
    """An answer has more bytes than allowed."""


class Stopped(Exception):
    """The caller's `stop` returned True."""


class BadRedirect(Exception):
    """A redirect has no valid address, or there were too many."""


class BodyLost(Exception):
    """The head of an answer was received, but not its whole body.

    Attributes:
        status: of the answer.
        headers: of the answer.
        cause: the error of httpx.
    """

    def __init__(self, status: int, headers: httpx.Headers, cause: httpx.HTTPError) -> None:
        self.status = status
        self.headers = headers
        self.cause = cause
        super().__init__(f"the answer's body broke off: {cause or type(cause).__name__}")


@dataclass(frozen=True)
class Reply:
    """A complete answer.

    Attributes:
        url: the address after all redirects.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    url: httpx.URL


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that an answer asks to wait, by `retry-after-ms` or `Retry-After` (seconds or a date); None without them.

    Args:
        headers: of the answer.
        now: the moment, as a Unix time; the system clock's unless given.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if text.replace(".", "", 1).isdecimal() and text.isascii():
            return float(text) * unit
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, moment - (time.time() if now is None else now))


class Http:
    """The clients of all threads of a process.

    Args:
        networks: private networks that the operator allowed.
        resolve: resolves a name and a port to addresses.
        context: for TLS; with httpx's own certificate authorities unless given.
    """

    def __init__(
        self,
        networks: Iterable[Network] = (),
        *,
        resolve: Resolve = resolve,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._networks = tuple(networks)
        self._resolve = resolve
        self._context = context or httpx.create_ssl_context(trust_env=False)
        self._own = threading.local()
        self._all: set[_ThreadClients] = set()
        self._lock = threading.Lock()

    def exchange(
        self,
        method: str,
        url: str | httpx.URL,
        *,
        reach: Reach,
        deadline_s: float,
        max_bytes: int,
        connect_timeout_s: float = 10,
        headers: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
        files: Mapping[str, tuple[str, bytes, str]] | None = None,
        content: bytes | None = None,
        hops: int = 0,
        trusted_host: str | None = None,
        stop: Callable[[], bool] | None = None,
        cut: bool = False,
    ) -> Reply:
        """Send one request and read its answer, whatever its status.

        Args:
            method: of HTTP.
            url: absolute.
            reach: which addresses the request may go to.
            deadline_s: how long the whole exchange may take, in seconds, redirects included.
            max_bytes: the most bytes of the answer's body, decoded.
            connect_timeout_s: how long one connection may take, in seconds.
            headers: additional ones. With `hops` every address on the way receives them: no secrets then.
            data: fields of a form.
            files: file parts of a form: field to (file name, bytes, media type).
            content: a body without a form.
            hops: how many redirects to follow; with 0, a redirect is returned as the answer.
            trusted_host: a host whose address is not checked.
            stop: asked before each request and, with `hops`, while the body is read.
            cut: read the first `max_bytes` of a longer body, undecoded, instead of refusing it.

        Raises:
            AddressRefused: the guard refused an address.
            TooLong: the body is longer than `max_bytes`.
            BodyLost: the body was not received completely.
            BadRedirect: a redirect has no valid address, or there were too many.
            Stopped: `stop` returned True.
            httpx.HTTPError, httpx.InvalidURL: there is no answer, or the address is invalid.
        """
        own = self._clients()
        own.clock.start(deadline_s, connect_timeout_s)

        def send(target: httpx.URL) -> httpx.Response:
            client = own.of(self._reach(target, reach, trusted_host))
            request = client.build_request(
                method, target, headers={"accept": "*/*", **(headers or {})}, data=data, files=files, content=content
            )
            return client.send(request, stream=True)

        read = partial(_read_head if cut else _read, max_bytes=max_bytes, stop=stop if hops else None)
        return _follow(httpx.URL(url), send, read, hops=hops, stop=stop)

    def _reach(self, url: httpx.URL, reach: Reach, trusted_host: str | None) -> Reach:
        if reach is Reach.OPERATOR or (trusted_host is not None and url.host == trusted_host):
            return Reach.OPERATOR
        schemes = ("https",) if reach is Reach.USER else ("https", "http")
        try:
            check_url(str(url), networks=self._networks, schemes=schemes)
        except ValueError as error:
            raise AddressRefused(str(error)) from error
        return reach

    def _clients(self) -> "_ThreadClients":
        own: _ThreadClients | None = getattr(self._own, "clients", None)
        if own is None:
            own = self._own.clients = _ThreadClients(self._context, self._networks, self._resolve)
            with self._lock:
                self._all = {clients for clients in self._all if clients.thread.is_alive()} | {own}
        return own

    def close(self) -> None:
        """Close every thread's connections."""
        with self._lock:
            for clients in self._all:
                clients.close()
            self._all.clear()


def _follow(
    target: httpx.URL,
    send: Callable[[httpx.URL], httpx.Response],
    read: Callable[[httpx.Response], bytes],
    *,
    hops: int,
    stop: Callable[[], bool] | None,
) -> Reply:
    """Send a request, and send it again to the address of each redirect.

    Raises:
        BadRedirect, Stopped: as `Http.exchange` raises them.
    """
    for hop in range(hops + 1):
        if stop is not None and stop():
            raise Stopped
        response = send(target)
        try:
            if not hops or not response.has_redirect_location:
                return Reply(response.status_code, response.headers, read(response), target)
            if hop < hops:
                target = _next(target, response)
        finally:
            response.close()
    raise BadRedirect(f"more than {hops} redirects")


def _next(here: httpx.URL, response: httpx.Response) -> httpx.URL:
    try:
        there = here.join(response.headers["location"])
    except (httpx.InvalidURL, UnicodeError) as error:
        raise BadRedirect("a redirect to an invalid URL") from error
    if here.scheme == "https" and there.scheme == "http":
        raise BadRedirect("a redirect from https to http")
    return there


def _read(response: httpx.Response, max_bytes: int, stop: Callable[[], bool] | None) -> bytes:
    """The whole body, decoded.

    Raises:
        TooLong: it is longer than `max_bytes`.
        BodyLost: it was not received completely.
        Stopped: `stop` returned True.
    """
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise TooLong(f"{int(length):,} bytes, at most {max_bytes:,} are allowed")
    parts: list[bytes] = []
    size = 0
    try:
        for part in response.iter_raw():
            size += len(part)
            if size > max_bytes:
                raise TooLong(f"more than {max_bytes:,} bytes")
            if stop is not None and stop():
                raise Stopped
            parts.append(part)
    except httpx.HTTPError as error:
        raise BodyLost(response.status_code, response.headers, error) from error
    return _decoded(response, b"".join(parts), max_bytes)


def _read_head(response: httpx.Response, max_bytes: int, stop: Callable[[], bool] | None) -> bytes:
    """The first bytes of a body, undecoded.

    Raises:
        BodyLost, Stopped: as `_read` raises them.
    """
    head = b""
    try:
        for part in response.iter_raw():
            if stop is not None and stop():
                raise Stopped
            head += part
            if len(head) >= max_bytes:
                break
    except httpx.HTTPError as error:
        raise BodyLost(response.status_code, response.headers, error) from error
    return head[:max_bytes]


def _decoded(response: httpx.Response, body: bytes, max_bytes: int) -> bytes:
    """The body, decompressed where the server compressed it without being asked; at most `max_bytes`."""
    if response.headers.get("content-encoding", "identity").lower() in {"identity", ""}:
        return body
    try:
        stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
        plain = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        cause = httpx.DecodingError(f"the compressed body is damaged, or not gzip: {error}")
        raise BodyLost(response.status_code, response.headers, cause) from error
    if len(plain) > max_bytes:
        raise TooLong(f"more than {max_bytes:,} bytes after decompression")
    return plain


class _ThreadClients:
    """One thread's clients, one for each reach, made when they are first needed."""

    def __init__(self, context: ssl.SSLContext, networks: tuple[Network, ...], resolve: Resolve) -> None:
        self.clock = Clock()
        self.thread = threading.current_thread()
        self._context = context
        self._networks = networks
        self._resolve = resolve
        self._made: dict[Reach, httpx.Client] = {}

    def of(self, reach: Reach) -> httpx.Client:
        client = self._made.get(reach)
        if client is None:
            client = self._made[reach] = self._make(reach)
        return client

    def _make(self, reach: Reach) -> httpx.Client:
        def transport(*, plain: bool) -> httpx.BaseTransport:
            def allowed(address: str) -> bool:
                if reach is Reach.OPERATOR:
                    return True
                if plain and reach is Reach.USER:
                    return lies_in(address, self._networks)
                return may_reach(address, self._networks)

            return GuardedTransport(self._context, GuardedBackend(self.clock, self._resolve, allowed))

        return httpx.Client(
            transport=transport(plain=False),
            mounts={"http://": transport(plain=True)},
            trust_env=False,
            # One user's server must not receive the cookies of another user's server.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            # The streams apply the deadline; httpx restarts its own timeouts with every read.
            timeout=None,  # noqa: S113
            headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
        )

    def close(self) -> None:
        for client in self._made.values():
            client.close()
