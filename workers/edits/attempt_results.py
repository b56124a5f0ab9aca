"""The results of an attempt's steps. Each step receives the result of the step before; none is changed later."""

from dataclasses import dataclass

from jobs.foundation.errors import EditFailure
from jobs.images.picture import Picture
from jobs.plan.records import Claim
from jobs.plan.settlement import Settlement
from jobs.records.job_models import Output
from workers.dialects.calls import Answer
from workers.edits.fetch_input import Fetched
from workers.edits.reuse import EqualEdit


@dataclass(frozen=True)
class Progress:
    """How far an attempt has come. Every result has it, so that a failure knows what happened before it.

    Attributes:
        claim: the attempt, with the description of its input once that is known.
        fetched_bytes: size of the input that was fetched.
        called: whether the provider was called: from then on the edit may be billed.
        answered: whether the provider delivered a result.
        trace_id: the provider's name for the call.
    """

    claim: Claim
    fetched_bytes: int = 0
    called: bool = False
    answered: bool = False
    trace_id: str | None = None


@dataclass(frozen=True)
class InputObtained:
    """The input is known.

    Attributes:
        progress: so far.
        fetched: the input's bytes; None where an equal edit makes them unnecessary.
        equal: a finished edit whose output may be copied.
    """

    progress: Progress
    fetched: Fetched | None
    equal: EqualEdit | None

    @property
    def before(self) -> bytes | None:
        """The input's bytes where the batch wants a thumbnail of them."""
        return self.fetched.data if self.fetched and self.progress.claim.sheet else None


@dataclass(frozen=True)
class ReadyToCall:
    """Everything that the provider needs is in memory; nothing was paid yet."""

    progress: Progress
    fetched: Fetched
    before: bytes | None


@dataclass(frozen=True)
class Answered:
    """The provider has delivered: the edit is paid.

    Attributes:
        progress: so far.
        answer: a URL or the bytes.
        source: the input, which the result is compared with.
        before: the input's bytes where the batch wants a thumbnail of them.
    """

    progress: Progress
    answer: Answer
    source: Picture
    before: bytes | None


@dataclass(frozen=True)
class Downloaded:
    """The result's bytes are in memory.

    Attributes:
        progress: so far.
        data: the bytes.
        seed: the seed that the provider used, if it says so.
        source: the input, which the result is compared with.
        before: the input's bytes where the batch wants a thumbnail of them.
        only_copy: the bytes came with the answer: nobody else has them.
    """

    progress: Progress
    data: bytes
    seed: int | None
    source: Picture
    before: bytes | None = None
    only_copy: bool = False


@dataclass(frozen=True)
class Verified:
    """The result is a whole picture of the right size.

    Attributes:
        downloaded: the bytes.
        output: their description and where they go.
    """

    downloaded: Downloaded
    output: Output


@dataclass(frozen=True)
class Stored:
    """The output is in the bucket."""

    progress: Progress
    output: Output


@dataclass(frozen=True)
class Failed:
    """A step failed; `progress` is as of that step's start."""

    progress: Progress
    failure: EditFailure


@dataclass(frozen=True)
class Ended:
    """A settled attempt.

    Attributes:
        result: of its steps.
        settlement: what was written.
        written: whether the fence accepted it.
    """

    result: Stored | Failed
    settlement: Settlement
    written: bool

    @property
    def failure(self) -> EditFailure | None:
        """Why the attempt failed; None where it succeeded."""
        return self.result.failure if isinstance(self.result, Failed) else None
