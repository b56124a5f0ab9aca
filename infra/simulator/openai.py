"""The `openai` dialect of three servers: OpenAI itself, vLLM-Omni, and SGLang diffusion.

Source: OpenAI's API reference (images/edits, error codes, rate limits) and the two servers' documentation of their
OpenAI-compatible routes. Where vLLM-Omni and SGLang document no range, a wide range is used.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from infra.simulator.form_parsing import (
    MAX_SEED,
    Answer,
    Delivery,
    EditRequest,
    Format,
    Refusal,
    choice,
    decimal,
    integer,
    invalid,
    one_image,
    pixels,
    prompt_of,
    text,
)

if TYPE_CHECKING:
    from starlette.datastructures import FormData

MAX_PROMPT = 32_000
MAX_IMAGE_BYTES = 50 * 1024 * 1024

_FIELDS = frozenset(
    (
        "model", "image", "image[]", "prompt", "n", "size", "quality", "output_format", "output_compression",
        "background", "input_fidelity", "mask", "user",
    )
)  # fmt: skip
_FORMATS = ("png", "jpeg", "webp")


class OpenAI:
    """OpenAI's GPT image models."""

    filters_in_answer = False

    async def read(self, form: FormData) -> EditRequest:
        """Parse a form and validate it by OpenAI's rules; `mask` is accepted and ignored.

        Raises:
            Refusal: 400, for the first invalid or unknown field.
        """
        for name in form:
            if name not in _FIELDS:
                raise invalid(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
        image, header = await one_image(form, "image", "image[]", max_count=16)
        if len(image) > MAX_IMAGE_BYTES:
            raise invalid("image must be at most 50 MB", "image", "image_too_large")
        background = choice(form, "background", ("auto", "transparent", "opaque"), "auto")
        output_format = _format(form)
        if background == "transparent" and output_format == "jpeg":
            raise invalid("background transparent needs output_format png or webp", "background", "invalid_value")
        return EditRequest(
            model=text(form, "model"),
            image=image,
            header=header,
            prompt=prompt_of(form, MAX_PROMPT, "string_above_max_length"),
            options={"quality": choice(form, "quality", ("auto", "low", "medium", "high"), "auto")},
            count=integer(form, "n", 1, 10, 1) or 1,
            size=pixels(form),
            output_format=output_format or "png",
        )

    def answer(self, answer: Answer) -> bytes:
        """The body of a 200: pictures and usage, without seed and finish_reason."""
        request, outputs = answer.request, answer.outputs
        text_tokens = max(1, len(request.prompt) // 4)
        image_tokens = max(1, request.header.width * request.header.height // 4096)
        output_tokens = 1056 * len(outputs)
        body = {
            "created": answer.created,
            "background": "opaque",
            "output_format": outputs[0].media_type.partition("/")[2],
            "quality": request.options["quality"],
            "data": [{"b64_json": output.b64} for output in outputs],
            "usage": {
                "total_tokens": text_tokens + image_tokens + output_tokens,
                "input_tokens": text_tokens + image_tokens,
                "output_tokens": output_tokens,
                "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": image_tokens},
            },
        }
        return json.dumps(body).encode()

    def error(self, refusal: Refusal) -> tuple[int, bytes]:
        """Status and body of an error, with `code` and `param`."""
        status, kind, code = refusal.status, "invalid_request_error", refusal.code or None
        if refusal.reason == "moderation":
            status, kind, code = 400, "image_generation_user_error", "moderation_blocked"
        elif refusal.reason == "quota":
            status, kind, code = 429, "insufficient_quota", "insufficient_quota"
        elif status == 429:
            kind, code = "requests", "rate_limit_exceeded"
        elif status == 401:
            code = "invalid_api_key"
        elif refusal.reason == "model":
            code = "model_not_found"
        elif status >= 500:
            kind = "server_error"
        error = {"message": refusal.message, "type": kind, "param": refusal.param or None, "code": code}
        return status, json.dumps({"error": error}).encode()

    def headers(self, trace_id: str) -> dict[str, str]:
        """Headers of every answer."""
        return {"x-request-id": trace_id}

    def limit_headers(self, refusal: Refusal, *, retry_after: str) -> dict[str, str]:
        """Additional headers of a 429: the limit, the rest of it, its reset, and when to retry."""
        wait = max(1, round(refusal.wait_s or 1))
        return {
            "Retry-After": retry_after or str(wait),
            "x-ratelimit-limit-requests": str(refusal.limit),
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": f"{wait}s",
        }


class VllmOmni(OpenAI):
    """A vLLM-Omni server: diffusion parameters by their usual names; unknown fields are ignored."""

    deliveries: tuple[Delivery, ...] = ("b64_json",)

    async def read(self, form: FormData) -> EditRequest:
        """Parse a form and validate types and wide ranges.

        Raises:
            Refusal: 400, for the first invalid field.
        """
        image, header = await one_image(form, "image", "image[]", max_count=16)
        return EditRequest(
            model=text(form, "model"),
            image=image,
            header=header,
            prompt=prompt_of(form, MAX_PROMPT),
            seed=integer(form, "seed", 0, MAX_SEED, None),
            options={
                "num_inference_steps": integer(form, "num_inference_steps", 1, 1000, 50),
                "guidance_scale": decimal(form, "guidance_scale", 0.0, 1000.0, 1.0),
                "true_cfg_scale": decimal(form, "true_cfg_scale", 0.0, 1000.0, 4.0),
                "negative_prompt": text(form, "negative_prompt"),
            },
            delivery=cast("Delivery", choice(form, "response_format", self.deliveries, self.deliveries[0])),
            count=integer(form, "n", 1, 10, 1) or 1,
            size=pixels(form),
            output_format=_format(form),
        )

    def answer(self, answer: Answer) -> bytes:
        """The body of a 200; a `url` is relative to the server."""
        data = [{"url": output.path} if output.path else {"b64_json": output.b64} for output in answer.outputs]
        return json.dumps({"created": answer.created, "data": data}).encode()

    def error(self, refusal: Refusal) -> tuple[int, bytes]:
        """Status and body of an error; `code` repeats the status."""
        status = 400 if refusal.reason == "moderation" else refusal.status
        kind = {401: "AuthenticationError", 404: "NotFoundError"}.get(status)
        kind = kind or ("InternalServerError" if status >= 500 else "BadRequestError")
        code = "moderation_blocked" if refusal.reason == "moderation" else status
        error = {"message": refusal.message, "type": kind, "param": refusal.param or None, "code": code}
        return status, json.dumps({"error": error}).encode()


class SGLang(VllmOmni):
    """An SGLang diffusion server: like vLLM-Omni, but `url` is the default response format."""

    deliveries = ("url", "b64_json")


def _format(form: FormData) -> Format | None:
    name = choice(form, "output_format", _FORMATS, "png")
    return cast("Format", name) if "output_format" in form else None
