"""Every error that the client raises on purpose.

RetouchError
├── NotConfigured    the URL or the API key is missing
├── Unreachable      the service or its store did not answer in any try
├── ProblemError     the service refused: status, title, detail and invalid fields
├── BadAnswer        the answer does not come from Retouch
├── NoOutput         the job has no output
├── Damaged          downloaded bytes do not match their SHA-256
└── WaitTimeout      the job did not end in time; `job` is its last known state
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retouch.records import Job


class RetouchError(Exception):
    """The base class of all errors that the client raises on purpose."""


class NotConfigured(RetouchError):
    """The service's URL or the API key is missing or invalid."""


class Unreachable(RetouchError):
    """The service, or the store that holds the images, did not answer."""


@dataclass(frozen=True)
class FieldProblem:
    """One broken rule.

    Attributes:
        field: the submitted name, dotted if nested; "" for the whole request.
        message: the fault and how to correct it.
        code: a stable identifier for programs; "" if the service sent none.
    """

    field: str
    message: str
    code: str = ""


class ProblemError(RetouchError):
    """The service refused the request with an `application/problem+json` answer (RFC 9457).

    Attributes:
        status: HTTP status.
        title: the kind of problem.
        detail: this problem; "" if the service sent none.
        errors: the invalid fields.
        retry_after_s: seconds to wait before the next try; None if the service sent none.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str = "",
        errors: tuple[FieldProblem, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors
        self.retry_after_s = retry_after_s
        fields = [f"{e.field}: {e.message}" if e.field else e.message for e in errors]
        summary = detail or ("" if fields else title)
        super().__init__("; ".join(filter(None, [summary, *(f for f in fields if f not in summary)])))

    @classmethod
    def from_body(cls, status: int, body: Mapping[str, Any], retry_after_s: float | None) -> "ProblemError":
        """Parse a problem document. Members that are missing or have a wrong type are ignored."""
        errors = body.get("errors")
        return cls(
            status,
            str(body.get("title") or "refused"),
            str(body.get("detail") or ""),
            tuple(
                FieldProblem(str(e.get("field") or ""), str(e.get("message") or ""), str(e.get("code") or ""))
                for e in (errors if isinstance(errors, list) else [])
                if isinstance(e, Mapping)
            ),
            retry_after_s,
        )


class BadAnswer(RetouchError):
    """The answer does not come from Retouch but, for example, from a proxy or another program on that port."""


class NoOutput(RetouchError):
    """The job has no output to download."""


class Damaged(RetouchError):
    """Downloaded bytes do not match the SHA-256 that the service reported."""


class WaitTimeout(RetouchError):
    """The job did not end in time; `job` is its last known state."""

    def __init__(self, job: "Job", seconds: float) -> None:
        self.job = job
        super().__init__(f"{job.id} is still {job.state} after {seconds:g} s")
