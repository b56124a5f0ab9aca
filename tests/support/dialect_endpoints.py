"""Endpoints with scripted answers, and edit requests to them, for the tests of the dialects."""

import email.message
import email.parser
import email.policy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobs.catalogue.catalogue import ModelSpec, load_catalogue
from jobs.foundation.errors import (
    EditFailure,
)
from jobs.records.job_models import EditParameters
from tests.support.loopback import Request, answer, serve
from workers.dialects import dialect_of
from workers.dialects.calls import Answer, EditCall
from workers.net.http import Http

KEY = "sk-very-secret"
PICTURE = bytes(range(256)) * 20
STEPFUN = load_catalogue().get("step-image-edit-2")

TOML = """
[models.step-image-edit-2]
dialect = "stepfun"

# OpenAI itself.
[models."gpt-image-1.5"]
dialect = "openai"
concurrency = 10

# vLLM-Omni on one's own GPUs: no key, one model a server, its own names for our parameters.
[models.qwen-image-edit]
dialect = "openai"
base_url = "http://gpu-1.intranet:8091/v1"
api_key_env = ""
keeps_size = true
parameters.seed = { type = "integer", min = 0, max = 2147483647 }
parameters.steps = { type = "integer", min = 1, max = 100, wire = "num_inference_steps" }
parameters.cfg_scale = { type = "number", min = 1, max = 20, wire = "true_cfg_scale" }
parameters.negative_prompt = { type = "string" }

# SGLang diffusion: the same route; asked for a URL, it answers with one that is relative to the server.
[models.qwen-image-edit-sglang]
dialect = "openai"
base_url = "http://gpu-2.intranet:30000/v1"
api_key_env = ""
response_format = "url"
parameters.seed = { type = "integer", min = 0, max = 2147483647 }
parameters.steps = { type = "integer", min = 1, max = 100, wire = "num_inference_steps" }
parameters.cfg_scale = { type = "number", min = 1, max = 20, wire = "guidance_scale" }
"""


def models(directory: Path) -> Callable[[str], ModelSpec]:
    """The models of `TOML`, by name."""
    path = directory / "retouch.toml"
    path.write_text(TOML)
    return load_catalogue(path).get


def call(model: ModelSpec, **parameters: object) -> EditCall:
    return EditCall(
        model=model,
        key=SecretStr(KEY),
        picture=PICTURE,
        media_type="image/png",
        parameters=EditParameters.model_validate({"prompt": "a red coat", **parameters}),
    )


def at(server_url: str, model: ModelSpec = STEPFUN, **changes: object) -> ModelSpec:
    return model.model_copy(update={"base_url": f"{server_url}/v1", **changes})


def edit(http: Http, model: ModelSpec, **parameters: object) -> Answer:
    return dialect_of(model, http).edit(call(model, **parameters))


def failure(
    http: Http, script: bytes | Callable[..., None], model: ModelSpec = STEPFUN, **changes: object
) -> EditFailure:
    """What an endpoint that does this makes of an edit; it has been asked exactly once."""
    with serve(script) as server:
        with pytest.raises(EditFailure) as caught:
            edit(http, at(server.url, model, **changes))
        assert len(server.requests) == 1
    assert KEY not in caught.value.message
    return caught.value


def form(request: Request) -> dict[str, str | bytes]:
    """The parts of a multipart body by name, the file's as bytes."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    parts: dict[str, str | bytes] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        assert isinstance(name, str)
        assert isinstance(payload, bytes)
        assert name not in parts
        parts[name] = payload if part.get_filename() else payload.decode()
    return parts


def success(**result: object) -> bytes:
    body = {"id": "img-1", "created": 1, "data": [{"url": "https://r.example/1.png", **result}]}
    return answer(200, json.dumps(body).encode(), content_type="application/json", x_trace_id="trace-1")


def error_body(message: str = "why", **words: str) -> bytes:
    return json.dumps({"error": {"message": message, **words}}).encode()
