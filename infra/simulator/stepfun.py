"""The `stepfun` dialect: rules, answer and errors of StepFun's image edits.

Source of every rule: the vendor's API reference for ``/v1/images/edits`` and ``step-image-edit-2``. It names the error
types of 400, 401, 402, 429 and 451. Those of 404 and 5xx are not documented; the names here are invented.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from infra.simulator.form_parsing import (
    MAX_SEED,
    Answer,
    Delivery,
    EditRequest,
    Refusal,
    choice,
    decimal,
    integer,
    invalid,
    one_image,
    prompt_of,
    text,
)

if TYPE_CHECKING:
    from starlette.datastructures import FormData

MAX_PROMPT = 512
MAX_SIDE = 4096

_TYPES = {
    400: "request_params_invalid",
    401: "invalid_api_key",
    402: "quota_exceeded",
    404: "model_not_found",
    429: "rate_limited",
    451: "censorship_blocked",
    503: "service_unavailable",
    504: "gateway_timeout",
}


class StepFun:
    """StepFun's dialect."""

    filters_in_answer = True

    async def read(self, form: FormData) -> EditRequest:
        """Parse a form and validate it by the documented rules.

        Raises:
            Refusal: 400, for the first invalid field.
        """
        image, header = await one_image(form, "image")
        if header.width > MAX_SIDE or header.height > MAX_SIDE:
            raise invalid(f"image must be at most {MAX_SIDE}x{MAX_SIDE}, got {header.width}x{header.height}", "image")
        prompt = prompt_of(form, MAX_PROMPT)
        negative = text(form, "negative_prompt")
        if len(negative) > MAX_PROMPT:
            raise invalid(
                f"negative_prompt must be at most {MAX_PROMPT} characters, got {len(negative)}", "negative_prompt"
            )
        cfg_scale = decimal(form, "cfg_scale", 1.0, 10.0, 1.0)
        return EditRequest(
            model=text(form, "model"),
            image=image,
            header=header,
            prompt=prompt,
            seed=integer(form, "seed", 0, MAX_SEED, None),
            options={
                "steps": integer(form, "steps", 1, 50, 8),
                "cfg_scale": cfg_scale,
                # Without guidance (1.0) a negative prompt has no effect.
                "negative_prompt": negative if cfg_scale > 1.0 else "",
                "text_mode": choice(form, "text_mode", ("true", "false"), "false"),
            },
            delivery=cast("Delivery", choice(form, "response_format", ("url", "b64_json"), "url")),
        )

    def answer(self, answer: Answer) -> bytes:
        """The body of a 200."""
        reason = "content_filtered" if answer.filtered else "success"
        data: list[dict[str, object]] = []
        for output in answer.outputs:
            item: dict[str, object] = {"seed": output.seed, "finish_reason": reason}
            if output.path:
                item["url"] = answer.base_url + output.path
            elif output.b64:
                item["b64_json"] = output.b64
            data.append(item)
        return json.dumps({"id": answer.call_id, "created": answer.created, "data": data}).encode()

    def error(self, refusal: Refusal) -> tuple[int, bytes]:
        """Status and body of an error."""
        kind = _TYPES.get(refusal.status, "server_error" if refusal.status >= 500 else "request_refused")
        return refusal.status, json.dumps({"error": {"message": refusal.message, "type": kind}}).encode()

    def headers(self, trace_id: str) -> dict[str, str]:
        """Headers of every answer."""
        return {"X-Trace-Id": trace_id}

    def limit_headers(self, refusal: Refusal, *, retry_after: str) -> dict[str, str]:  # noqa: ARG002 - other dialects use it
        """Additional headers of a 429; StepFun's documentation mentions none."""
        return {"Retry-After": retry_after} if retry_after else {}
