"""Every error the client raises on purpose.

RetouchError
├── NotConfigured    no service is named, or no API key
├── Unreachable      the service did not answer, however often it was asked
├── ProblemError     the service refused: status, title, detail and the fields it names
├── BadAnswer        an answer that is not Retouch's
├── NoOutput         the job has no output to fetch
├── Damaged          what was fetched is not what the service says it kept
└── WaitTimeout      the job was not final in time; `job` is how it was last seen
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retouch.records import Job


class RetouchError(Exception):
    """The root: catching it catches everything the client raises on purpose."""


class NotConfigured(RetouchError):
    """No service is named, or no API key."""


class Unreachable(RetouchError):
    """The service, or the store that holds a picture, did not answer."""


@dataclass(frozen=True)
class FieldProblem:
    """One broken rule.

    Attributes:
        field: the name as it was submitted, dotted where nested; "" for the whole request.
        message: what is wrong and what to do.
        code: a stable word for programs; "" where the service gave none.
    """

    field: str
    message: str
    code: str = ""


class ProblemError(RetouchError):
    """The service refused, in the words of its `application/problem+json` (RFC 9457).

    Attributes:
        status: HTTP status.
        title: the kind of problem.
        detail: this problem; "" where the service gave none.
        errors: the fields it names.
        retry_after_s: how long to wait before asking again, where the service says so.
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
        said = detail or ("" if fields else title)
        super().__init__("; ".join(filter(None, [said, *(f for f in fields if f not in said)])))

    @classmethod
    def from_body(cls, status: int, body: Mapping[str, Any], retry_after_s: float | None) -> "ProblemError":
        """Read a problem; members that are missing or of a wrong type are passed over."""
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
    """An answer that is not Retouch's: a proxy's page, another program on that port."""


class NoOutput(RetouchError):
    """The job has no output to fetch."""


class Damaged(RetouchError):
    """What was fetched is not what the service says it kept."""


class WaitTimeout(RetouchError):
    """The job was not final in time; `job` is how it was last seen."""

    def __init__(self, job: "Job", seconds: float) -> None:
        self.job = job
        super().__init__(f"{job.id} is still {job.state} after {seconds:g} s")
