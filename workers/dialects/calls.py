"""An edit as it is asked of an endpoint, and what comes back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from jobs.catalogue.catalogue import ModelSpec
from jobs.records.job_models import EditParameters


@dataclass(frozen=True)
class EditCall:
    """One edit to ask for.

    Attributes:
        model: at which endpoint, and how.
        key: for it; None where it needs none.
        picture: the input's bytes.
        media_type: of the input.
        parameters: what the edit shall be.
        traceparent: W3C trace context that is passed on, where there is one.
        timeout_s: seconds for the whole call, where that is less than the model's `timeout_s`.
        stop: whether to give up; asked before the call is sent and not after, since then it is paid for.
        filename: what the form's file part is called; `image` and the type's extension unless given.
    """

    model: ModelSpec
    key: SecretStr | None
    picture: bytes
    media_type: str
    parameters: EditParameters
    traceparent: str | None = None
    timeout_s: float | None = None
    stop: Callable[[], bool] | None = None
    filename: str = ""


@dataclass(frozen=True)
class Answer:
    """An endpoint's yes: where the result is (`url`), or its bytes (`data`); exactly one is there.

    Attributes:
        url: absolute.
        data: the decoded bytes.
        seed: the one that the endpoint says it used.
        finish_reason: as the endpoint gave it.
        trace_id: the endpoint's own name for the call, for its support.
        provider_id: the endpoint's `id` of the answer.
    """

    url: str | None = None
    data: bytes | None = None
    seed: int | None = None
    finish_reason: str | None = None
    trace_id: str | None = None
    provider_id: str | None = None


class Dialect(Protocol):
    """How an endpoint wants to be spoken to."""

    def edit(self, call: EditCall) -> Answer:
        """Ask for an edit once.

        Raises:
            EditFailure: whatever went wrong, and nothing else.
        """

    def download(self, url: str, model: ModelSpec, *, stop: Callable[[], bool] | None = None) -> bytes:
        """Fetch a result that the endpoint holds.

        Raises:
            EditFailure: whatever went wrong, and nothing else; `ResultGone` where it never will go better.
        """
