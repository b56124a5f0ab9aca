"""Which model speaks which dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from infra.simulator.openai import OpenAI, SGLang, VllmOmni
from infra.simulator.stepfun import StepFun

if TYPE_CHECKING:
    from starlette.datastructures import FormData

    from infra.simulator.form_parsing import Answer, EditRequest, Refusal


class Dialect(Protocol):
    """How a family of endpoints reads requests and words its answers."""

    @property
    def filters_in_answer(self) -> bool:
        """Whether the content filter speaks in a 200 (finish_reason) rather than through an error."""

    async def read(self, form: FormData) -> EditRequest:
        """Hold a form to the dialect's rules; raises `Refusal`."""

    def answer(self, answer: Answer) -> bytes:
        """The JSON body of a 200."""

    def error(self, refusal: Refusal) -> tuple[int, bytes]:
        """Status and JSON body of an error."""

    def headers(self, trace_id: str) -> dict[str, str]:
        """Headers of every answer."""

    def limit_headers(self, refusal: Refusal, *, retry_after: str) -> dict[str, str]:
        """Headers a 429 adds; ``retry_after`` is empty where the knobs ask for none."""


STEPFUN = StepFun()

MODELS: dict[str, Dialect] = {
    "step-image-edit-2": STEPFUN,
    "gpt-image-1.5": OpenAI(),
    "gpt-image-1": OpenAI(),
    "qwen-image-edit": VllmOmni(),
    "qwen-image-edit-sglang": SGLang(),
}


def dialect_of(model: str) -> Dialect:
    """The dialect that a model's callers expect; StepFun's for a model that is not served here.

    A name that begins like one of OpenAI's is answered in OpenAI's words, so that its SDK understands the 404.
    """
    if model not in MODELS and model.startswith("gpt-"):
        return MODELS["gpt-image-1.5"]
    return MODELS.get(model, STEPFUN)
