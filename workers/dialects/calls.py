"""The request and the answer of an edit, in the same form for all dialects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from jobs.catalogue.catalogue import ModelSpec
from jobs.records.job_models import EditParameters


@dataclass(frozen=True)
class EditCall:
    """One edit to request.

    Attributes:
        model: names the endpoint and its dialect.
        key: the endpoint's API key; None where it needs none.
        picture: the input's bytes.
        media_type: of the input.
        parameters: of the edit.
        traceparent: W3C trace context to pass on, if there is one.
        timeout_s: how long the whole call may take, in seconds, if less than the model's `timeout_s`.
        stop: whether to stop early; it is asked before the request is sent, not later, since a sent request is paid.
        filename: of the form's file part; `image` with the media type's extension unless given.
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
    """A delivered edit: the result's address (`url`) or its bytes (`data`), exactly one of them.

    Attributes:
        url: absolute.
        data: the decoded bytes.
        seed: that the endpoint used, if it says so.
        finish_reason: as the endpoint sent it.
        trace_id: the endpoint's id of the call, for its support.
        provider_id: the endpoint's `id` of the answer.
    """

    url: str | None = None
    data: bytes | None = None
    seed: int | None = None
    finish_reason: str | None = None
    trace_id: str | None = None
    provider_id: str | None = None


class Dialect(Protocol):
    """The protocol of an endpoint."""

    def edit(self, call: EditCall) -> Answer:
        """Request an edit once.

        Raises:
            EditFailure: for every error; no other exception is raised.
        """

    def download(self, url: str, model: ModelSpec, *, stop: Callable[[], bool] | None = None) -> bytes:
        """Fetch a result that the endpoint holds.

        Raises:
            EditFailure: for every error; `ResultGone` where a later download cannot succeed.
        """
