"""One exchange with the service: what is asked again and when, and what an answer means."""

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from retouch.configuration import Access
from retouch.errors import BadAnswer, ProblemError, RetouchError, Unreachable

_BUSY = frozenset({502, 503, 504})
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Patience:
    """How often and how long a request is repeated.

    Attributes:
        tries: most times it is sent.
        first_s: most seconds before the second try; doubles for each further one. Full jitter is applied.
        longest_s: most seconds before any try. A `Retry-After` over it is not waited for.
    """

    tries: int = 5
    first_s: float = 0.2
    longest_s: float = 30.0

    def pause_s(self, failures: int) -> float:
        """A random time to wait after so many failures, in seconds."""
        return random.uniform(0, min(self.longest_s, self.first_s * 2 ** (failures - 1)))  # noqa: S311 - jitter, no secret


class Transport:
    """A connection pool to one service. May be shared by threads."""

    def __init__(self, access: Access, *, timeout_s: float, patience: Patience) -> None:
        self.access = access
        self.patience = patience
        self.timeout_s = timeout_s
        self._client = httpx.Client(timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)))
        self._headers = {"Authorization": f"Bearer {access.api_key}", "User-Agent": "retouch-python"}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool,
        headers: Mapping[str, str] | None = None,
        hold_s: float = 0,
        **content: Any,
    ) -> httpx.Response:
        """Ask the service, again where that is safe and may help.

        Args:
            method: of HTTP.
            path: below the service's URL, with its slash.
            repeatable: whether a second sending is harmless even if the first arrived. One that is not is sent again
                only where it surely was not taken.
            headers: besides the key's.
            hold_s: how long the service may hold its answer on purpose, in seconds.
            content: `json`, `params`, `data`, `files` of httpx.

        Raises:
            ProblemError: it refused.
            Unreachable: no answer in all tries.
            BadAnswer: something else answered.
        """
        request = self._client.build_request(
            method,
            self.access.url + path,
            headers={**self._headers, **(headers or {})},
            timeout=httpx.Timeout(self.timeout_s + hold_s, connect=min(10.0, self.timeout_s)),
            **content,
        )
        failures = 0
        while True:
            error: RetouchError
            pause: float | None = self.patience.pause_s(failures + 1)
            try:
                answer = self._client.send(request)
            except httpx.TransportError as fault:
                error = Unreachable(f"no answer from {self.access.url} ({self.access.source}): {in_words(fault)}")
                error.__cause__ = fault
                if not repeatable and not isinstance(fault, _NEVER_SENT):
                    pause = None
            else:
                if answer.is_success or answer.is_redirect:
                    return answer
                error = refusal(answer)
                pause = self._pause_after(answer.status_code, error, repeatable, pause)
            failures += 1
            if pause is None or failures >= self.patience.tries:
                raise error
            time.sleep(pause)

    def _pause_after(self, status: int, error: RetouchError, repeatable: bool, pause: float | None) -> float | None:
        told = error.retry_after_s if isinstance(error, ProblemError) else None
        if status == 429:
            return told if told is not None and told <= self.patience.longest_s else None
        if status in _BUSY and repeatable:
            return pause if told is None else told if told <= self.patience.longest_s else None
        return None

    @contextmanager
    def stream(self, path: str, *, params: Mapping[str, str | int] | None = None) -> Iterator[httpx.Response]:
        """An answer of the service that is read as it comes. It is asked for once.

        Raises:
            ProblemError: it refused.
            Unreachable: no answer, or one that broke off while it was read.
            BadAnswer: something else answered.
        """
        url = self.access.url + path
        try:
            with self._client.stream("GET", url, params=params, headers=self._headers) as answer:
                if not answer.is_success:
                    answer.read()
                    raise refusal(answer)
                yield answer
        except httpx.TransportError as fault:
            raise Unreachable(f"no answer from {self.access.url} ({self.access.source}): {in_words(fault)}") from fault

    def stored(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> httpx.Response:
        """Ask a presigned address; the caller reads and closes the answer. The service's key is not sent there.

        Raises:
            Unreachable: the store did not answer, or refused.
        """
        host = httpx.URL(url).host
        failures = 0
        while True:
            request = self._client.build_request(method, url, headers=headers, content=body)
            try:
                answer = self._client.send(request, stream=True)
            except httpx.TransportError as fault:
                error = Unreachable(f"no answer from the store at {host}: {in_words(fault)}")
                error.__cause__ = fault
            else:
                if answer.is_success:
                    return answer
                answer.close()
                error = Unreachable(f"the store at {host} answered HTTP {answer.status_code}")
                if answer.status_code < 500:
                    raise error
            failures += 1
            if failures >= self.patience.tries:
                raise error
            time.sleep(self.patience.pause_s(failures))


def in_words(fault: httpx.TransportError) -> str:
    """What happened, for people: httpx's own words are empty for some faults."""
    if isinstance(fault, httpx.TimeoutException):
        return "timed out"
    text = str(fault)
    return text.rpartition("] ")[2].lower() if text else type(fault).__name__


def refusal(answer: httpx.Response) -> RetouchError:
    """The error that an answer of 400 and over stands for."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and ("title" in body or "detail" in body):
        return ProblemError.from_body(answer.status_code, body, retry_after(answer))
    if answer.status_code == 429 or answer.status_code in _BUSY:
        return ProblemError(
            answer.status_code, answer.reason_phrase or "refused", f"{answer.url.host} is busy", (), retry_after(answer)
        )
    return BadAnswer(
        f"{answer.url.copy_with(query=None)} answered HTTP {answer.status_code} in a form that is not Retouch's: "
        "is RETOUCH_URL right?"
    )


def retry_after(answer: httpx.Response) -> float | None:
    """`Retry-After` in seconds from now, in both forms of RFC 9110; None where there is none that can be read."""
    value = answer.headers.get("Retry-After", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def read_json(answer: httpx.Response) -> Any:
    """The answer's JSON.

    Raises:
        BadAnswer: it is none.
    """
    try:
        return answer.json()
    except ValueError:
        raise BadAnswer(f"{answer.url.copy_with(query=None)} answered with something that is no JSON") from None
