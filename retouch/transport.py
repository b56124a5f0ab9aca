"""HTTP requests to the service: when they are retried, and which error an answer becomes."""

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from retouch.configuration import Access
from retouch.errors import BadAnswer, ProblemError, RetouchError, Unreachable
from retouch.records import Record

R = TypeVar("R", bound=Record)

_PAGE = 100
"""Entries of one page of a list."""
_BUSY = frozenset({502, 503, 504})
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Patience:
    """How often and how long a request is retried.

    Attributes:
        tries: maximum number of tries.
        first_s: maximum pause before the second try, in seconds; doubles with each further try. Full jitter applies.
        longest_s: maximum pause before any try, in seconds. A longer `Retry-After` raises the error at once.
    """

    tries: int = 5
    first_s: float = 0.2
    longest_s: float = 30.0

    def pause_s(self, failures: int) -> float:
        """A random pause after this number of failures, in seconds."""
        return random.uniform(0, min(self.longest_s, self.first_s * 2 ** (failures - 1)))  # noqa: S311 - jitter, no secret


class Transport:
    """A connection pool to one service. Threads may share it."""

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
        """Send a request to the service, and retry it if that is safe and can help.

        Args:
            method: the HTTP method.
            path: below the service's URL, with a leading slash.
            repeatable: whether the request is idempotent. Any other request is retried only if the service
                certainly did not process it.
            headers: in addition to the API key's.
            hold_s: how long the service may delay its answer on purpose, in seconds.
            content: `json`, `params`, `data`, `files` of httpx.

        Raises:
            ProblemError: the service refused.
            Unreachable: no answer in any try.
            BadAnswer: the answer does not come from Retouch.
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
                error = Unreachable(f"no answer from {self.access.url} ({self.access.source}): {describe_fault(fault)}")
                error.__cause__ = fault
                if not repeatable and not isinstance(fault, _NEVER_SENT):
                    pause = None
            else:
                if answer.is_success or answer.is_redirect:
                    return answer
                error = error_of(answer)
                pause = self._pause_after(answer.status_code, error, repeatable, pause)
            failures += 1
            if pause is None or failures >= self.patience.tries:
                raise error
            time.sleep(pause)

    def _pause_after(self, status: int, error: RetouchError, repeatable: bool, pause: float | None) -> float | None:
        """Seconds to wait before the next try; None if there is no next try."""
        retry_after_s = error.retry_after_s if isinstance(error, ProblemError) else None
        if retry_after_s is not None and retry_after_s > self.patience.longest_s:
            return None
        if status == 429:
            return retry_after_s
        if status in _BUSY and repeatable:
            return pause if retry_after_s is None else retry_after_s
        return None

    def call_json(self, method: str, path: str, *, repeatable: bool, **options: Any) -> dict[str, Any]:
        """Send a request as `call` does, and parse the JSON object in its answer.

        Raises:
            BadAnswer: the answer is not a JSON object.
        """
        answer = self.call(method, path, repeatable=repeatable, **options)
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise BadAnswer(f"{answer.url.copy_with(query=None)} did not answer with a JSON object")
        return body

    def list_pages(
        self, path: str, *, limit: int | None, params: Mapping[str, str | int] | None = None
    ) -> Iterator[Any]:
        """The entries of a list, at most `limit` of them. Each page is requested when it is needed."""
        query = dict(params or {})
        left = limit
        while left is None or left > 0:
            query["limit"] = _PAGE if left is None else min(_PAGE, left)
            page = self.call_json("GET", path, repeatable=True, params=query)
            entries = entries_of(page)
            yield from entries
            if not page.get("next_cursor"):
                return
            query["cursor"] = page["next_cursor"]
            left = None if left is None else left - len(entries)

    @contextmanager
    def stream(self, path: str, *, params: Mapping[str, str | int] | None = None) -> Iterator[httpx.Response]:
        """Open an answer that the caller reads as a stream. The request is not retried.

        Raises:
            ProblemError: the service refused.
            Unreachable: no answer, or the connection broke while the answer was read.
            BadAnswer: the answer does not come from Retouch.
        """
        url = self.access.url + path
        try:
            with self._client.stream("GET", url, params=params, headers=self._headers) as answer:
                if not answer.is_success:
                    answer.read()
                    raise error_of(answer)
                yield answer
        except httpx.TransportError as fault:
            raise Unreachable(
                f"no answer from {self.access.url} ({self.access.source}): {describe_fault(fault)}"
            ) from fault

    def stored(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> httpx.Response:
        """Send a request to a presigned URL, without the API key. The caller reads and closes the answer.

        Raises:
            Unreachable: the store did not answer, or it refused the request.
        """
        host = httpx.URL(url).host
        failures = 0
        while True:
            request = self._client.build_request(method, url, headers=headers, content=body)
            try:
                answer = self._client.send(request, stream=True)
            except httpx.TransportError as fault:
                error = Unreachable(f"no answer from the store at {host}: {describe_fault(fault)}")
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


def describe_fault(fault: httpx.TransportError) -> str:
    """A description of the fault. The message of httpx is empty for some faults."""
    if isinstance(fault, httpx.TimeoutException):
        return "timed out"
    text = str(fault)
    return text.rpartition("] ")[2].lower() if text else type(fault).__name__


def error_of(answer: httpx.Response) -> RetouchError:
    """The error for an answer with status 400 or higher."""
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
        f"{answer.url.copy_with(query=None)} answered HTTP {answer.status_code}, but not as Retouch does: "
        "check RETOUCH_URL"
    )


def retry_after(answer: httpx.Response) -> float | None:
    """`Retry-After` in seconds from now, from either form of RFC 9110; None if it is missing or invalid."""
    value = answer.headers.get("Retry-After", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def entries_of(page: Mapping[str, Any]) -> list[Any]:
    """The entries of one page of a list.

    Raises:
        BadAnswer: the page has no list named `data`.
    """
    entries = page.get("data")
    if not isinstance(entries, list):
        raise BadAnswer("the service answered with a list that has no `data`")
    return entries


def read_record(kind: type[R], body: object) -> R:
    """Parse a record.

    Raises:
        BadAnswer: a field is missing or invalid.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadAnswer(f"the service sent an invalid {kind.__name__.lower()}: {field}: {first['msg']}") from error
