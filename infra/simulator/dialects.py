"""Which model speaks which dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from infra.simulator.openai import OpenAI, SGLang, VllmOmni
from infra.simulator.stepfun import StepFun

if TYPE_CHECKING:
    from starlette.datastructures import FormData

    from infra.simulator.form_parsing import Answer, EditRequest, Refusal


class Dialect(Protocol):
    """How a family of endpoints parses requests and formats answers."""

    @property
    def filters_in_answer(self) -> bool:
        """Whether the content filter answers 200 with a finish_reason instead of an error."""

    async def read(self, form: FormData) -> EditRequest:
        """Parse a form and validate it by the dialect's rules; raises `Refusal`."""

    def answer(self, answer: Answer) -> bytes:
        """The JSON body of a 200."""

    def error(self, refusal: Refusal) -> tuple[int, bytes]:
        """Status and JSON body of an error."""

    def headers(self, trace_id: str) -> dict[str, str]:
        """Headers of every answer."""

    def limit_headers(self, refusal: Refusal, *, retry_after: str) -> dict[str, str]:
        """Additional headers of a 429; without ``Retry-After`` if ``retry_after`` is empty."""


STEPFUN = StepFun()

MODELS: dict[str, Dialect] = {
    "step-image-edit-2": STEPFUN,
    "gpt-image-1.5": OpenAI(),
    "gpt-image-1": OpenAI(),
    "qwen-image-edit": VllmOmni(),
    "qwen-image-edit-sglang": SGLang(),
}


def dialect_of(model: str) -> Dialect:
    """The dialect of a model; StepFun's for an unknown model.

    An unknown name that begins with ``gpt-`` gets OpenAI's dialect, so that OpenAI's SDK understands the 404.
    """
    if model not in MODELS and model.startswith("gpt-"):
        return MODELS["gpt-image-1.5"]
    return MODELS.get(model, STEPFUN)
