"""HTTP as the workers speak it: guarded where a user names the address, bounded in time and size everywhere.

Each thread has clients of its own: a connection pool that a hundred threads share is searched for each request. They
share one TLS context, which is dear to make.
"""

import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from jobs.foundation.address_policy import Network, check_url, lies_in, may_reach
from workers.net.ssrf_guard import AddressRefused, Clock, GuardedBackend, GuardedTransport, Resolve, resolve

USER_AGENT = "retouch"


FOREIGN = (httpx.HTTPError, httpx.StreamError, httpx.CookieConflict)
"""What httpx raises beside `httpx.InvalidURL`."""


class Reach(Enum):
    """Which addresses a request may go to."""

    OPERATOR = "operator"
    """Anywhere: the operator configured the address, and it may well be a private one."""
    PUBLIC = "public"
    """Public addresses and the private networks that the operator allowed: an endpoint named the address."""
    USER = "user"
    """The same, and without TLS only those private networks: a user named the address."""


class TooLong(Exception):
    """An answer has more bytes than were asked for."""


class Stopped(Exception):
    """The caller's `stop` said so."""


class BadRedirect(Exception):
    """A redirect without an address, or one too many."""


class BodyLost(Exception):
    """The head of an answer came, its body did not come whole; `cause` says why.

    Attributes:
        status: of the answer.
        headers: of the answer.
        cause: httpx's error.
    """

    def __init__(self, status: int, headers: httpx.Headers, cause: httpx.HTTPError) -> None:
        self.status = status
        self.headers = headers
        self.cause = cause
        super().__init__(f"the answer's body broke off: {cause or type(cause).__name__}")


@dataclass(frozen=True)
class Reply:
    """An answer, read whole.

    Attributes:
        url: where it came from, redirects followed.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    url: httpx.URL


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that an answer asks to wait: `Retry-After` as seconds or as a date, or `retry-after-ms`; None if none.

    Args:
        headers: of the answer.
        now: the moment, as a Unix time; the clock's unless given.
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
        resolve: name and port to addresses.
        context: for TLS; httpx's own choice of authorities unless given.
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
            reach: which addresses it may go to.
            deadline_s: seconds for all of it: names, connections, redirects, the last byte.
            max_bytes: most bytes of the answer's body, decoded.
            connect_timeout_s: seconds for a connection.
            headers: besides the usual ones. With `hops` they go to every address on the way: no secrets then.
            data: fields of a form.
            files: file parts of a form: field to (file name, bytes, media type).
            content: a body as it is.
            hops: redirects that are followed; without any, a redirect is an answer like another.
            trusted_host: a host that may be reached wherever it is.
            stop: asked before each request is sent and, where redirects may be followed, as the body comes.
            cut: a longer body is not refused but read so far, as it came, and its rest left unread.

        Raises:
            AddressRefused: the guard's no.
            TooLong: the body is longer than `max_bytes`.
            BodyLost: the body broke off, or was not done in time.
            BadRedirect: too many, or one without an address.
            Stopped: `stop` said so.
            httpx.HTTPError, httpx.InvalidURL: no answer came, or none could be asked for.
        """
        own = self._clients()
        own.clock.start(deadline_s, connect_timeout_s)
        target = httpx.URL(url)
        for hop in range(hops + 1):
            if stop is not None and stop():
                raise Stopped
            client = own.of(self._reach(target, reach, trusted_host))
            request = client.build_request(
                method, target, headers={"accept": "*/*", **(headers or {})}, data=data, files=files, content=content
            )
            response = client.send(request, stream=True)
            try:
                if not hops or not response.has_redirect_location:
                    body = (
                        _read_head(response, max_bytes) if cut else _read(response, max_bytes, stop if hops else None)
                    )
                    return Reply(response.status_code, response.headers, body, target)
                if hop == hops:
                    raise BadRedirect(f"more than {hops} redirects")
                target = _next(target, response)
            finally:
                response.close()
        raise BadRedirect(f"more than {hops} redirects")

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


def _next(here: httpx.URL, response: httpx.Response) -> httpx.URL:
    try:
        there = here.join(response.headers["location"])
    except (httpx.InvalidURL, UnicodeError) as error:
        raise BadRedirect("a redirect to what is no URL") from error
    if here.scheme == "https" and there.scheme == "http":
        raise BadRedirect("a redirect away from TLS")
    return there


def _read(response: httpx.Response, max_bytes: int, stop: Callable[[], bool] | None) -> bytes:
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise TooLong(f"{int(length):,} bytes, at most {max_bytes:,} are read")
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


def _read_head(response: httpx.Response, max_bytes: int) -> bytes:
    head = b""
    try:
        for part in response.iter_raw():
            head += part
            if len(head) >= max_bytes:
                break
    except httpx.HTTPError as error:
        raise BodyLost(response.status_code, response.headers, error) from error
    return head[:max_bytes]


def _decoded(response: httpx.Response, body: bytes, max_bytes: int) -> bytes:
    """The body, unpacked where a server compressed it unasked; never more than `max_bytes`."""
    if response.headers.get("content-encoding", "identity").lower() in {"identity", ""}:
        return body
    try:
        stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
        plain = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        cause = httpx.DecodingError(f"a compressed body that is broken, or no gzip: {error}")
        raise BodyLost(response.status_code, response.headers, cause) from error
    if len(plain) > max_bytes:
        raise TooLong(f"more than {max_bytes:,} bytes when unpacked")
    return plain


class _ThreadClients:
    """One thread's clients, by reach, each made when it is first needed."""

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
            # One user's picture server must not be told what another one's has set.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            # The streams hold to the clock; httpx's own timeouts would only start anew with every read.
            timeout=None,  # noqa: S113
            headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
        )

    def close(self) -> None:
        for client in self._made.values():
            client.close()
