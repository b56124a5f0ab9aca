"""The parts of the OpenAPI document that FastAPI cannot generate: request bodies in two formats, and problems."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.http.problems import MEDIA_TYPE, ProblemBody
from jobs.batches.models import BatchDefaults, BatchOptions, BatchRequest
from jobs.records.job_models import EditParameters, JobRequest

REASONS = {
    400: "The request is invalid.",
    403: "The API key lacks the permission.",
    401: "The API key is missing or unknown.",
    404: "The caller has no such resource.",
    409: "The current state does not allow this.",
    413: "The body is too large.",
    415: "The body's media type is not supported.",
    422: "The request is invalid; `errors` names the fields.",
    429: "A quota is exhausted; see `Retry-After`.",
    451: "The content filter rejected the edit.",
    500: "An unexpected error, or the edit failed permanently.",
    503: "Redis, the broker, or the bucket does not answer, or the model is parked; see `Retry-After`.",
    504: "The wait timed out; the job continues.",
}
PROBLEM_REF = {"$ref": "#/components/schemas/ProblemBody"}
JSON_EXAMPLE = {
    "image": "https://example.com/pictures/SKU-1041.jpg",
    "prompt": "Put the shoe on a white background",
    "seed": 7,
    "custom_id": "SKU-1041",
    "metadata": {"season": "winter"},
}
BATCH_EXAMPLE = {
    "name": "Winter shoes",
    "defaults": {"prompt": "Put the shoe on a white background"},
    "manifest": "s3://shop/catalogue/winter.csv",
    "trial": 20,
    "budget_usd": 50,
}
DROPIN_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}},
            "required": ["message", "type"],
        }
    },
    "required": ["error"],
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` argument for routes that return these problems."""
    content = {MEDIA_TYPE: {"schema": PROBLEM_REF}}
    return {status: {"description": REASONS[status], "content": content} for status in statuses}


def dropin_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` argument for errors of the drop-in endpoint."""
    content = {"application/json": {"schema": DROPIN_ERROR}}
    return {status: {"description": REASONS[status], "content": content} for status in statuses}


def submit_body() -> dict[str, Any]:
    """The body of `POST /v1/jobs`, in both formats."""
    fields = JobRequest.model_json_schema()
    described = {
        "image": "`https://…`, `s3://bucket/key` of an allowed bucket, or `data:image/png;base64,…`",
        "not_before": "RFC 3339, with a UTC offset",
        "output_key": "template with `{custom_id}`, `{job_id}`, `{batch_id}`, `{ext}`",
        "deadline_s": "seconds after the submit",
        "model": "a name from `GET /v1/models`; omit it for the default model",
    }
    for name, text in described.items():
        fields["properties"][name]["description"] = text
    form = {**fields, "title": "JobForm", "properties": dict(fields["properties"])}
    form["properties"]["image"] = {
        "type": "string",
        "format": "binary",
        "description": "The picture as a file part, or its address as a text part.",
    }
    form["properties"]["metadata"] = {
        "type": "string",
        "description": "A JSON object of strings; parts named `metadata.x` add entries.",
    }
    required = ["image", "prompt"]
    return {
        "required": True,
        "content": {
            "application/json": {"schema": {**fields, "required": required}, "example": JSON_EXAMPLE},
            "multipart/form-data": {"schema": {**form, "required": required}},
        },
    }


def batch_body() -> dict[str, Any]:
    """The body of `POST /v1/batches`, in both formats."""
    fields = BatchRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    options = BatchOptions.model_json_schema(ref_template="#/components/schemas/{model}")
    defaults = BatchDefaults.model_json_schema()
    for schema in (fields, options):
        schema.pop("$defs", None)
        schema["properties"]["defaults"] = {
            **defaults,
            "description": "Values for all items; an item can override them.",
        }
    fields["properties"]["items"]["description"] = (
        "Each item has the fields of a job, typically `custom_id` and `image`."
    )
    form = {**options, "title": "BatchForm", "properties": dict(options["properties"])}
    form["properties"]["manifest"] = {"type": "string", "format": "binary", "description": "CSV, JSONL or XLSX."}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": fields, "example": BATCH_EXAMPLE},
            "multipart/form-data": {"schema": {**form, "required": ["manifest"]}},
        },
    }


def dropin_body() -> dict[str, Any]:
    """The body of `POST /v1/images/edits`."""
    properties: dict[str, Any] = {
        "model": {"type": "string"},
        "image": {
            "type": "string",
            "format": "binary",
            "description": "Exactly one file; the name `image[]` is accepted, too.",
        },
        "response_format": {"type": "string", "enum": ["url", "b64_json"]},
        "n": {"type": "integer", "enum": [1]},
        "user": {"type": "string", "description": "Accepted and ignored."},
        **EditParameters.model_json_schema()["properties"],
    }
    schema = {"type": "object", "properties": properties, "required": ["image", "prompt"]}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def install(app: FastAPI) -> None:
    """Make `/openapi.json` describe problems instead of FastAPI's own validation errors."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    summary=app.summary,
                    description=app.description,
                    routes=app.routes,
                    tags=app.openapi_tags,
                )
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the way FastAPI documents


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for name, schema in ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")["$defs"].items():
        schemas[name] = schema
    body = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas["ProblemBody"] = {key: value for key, value in body.items() if key != "$defs"}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for schema in schemas.values():
        # A job's tenant is the caller. It is stored, but responses omit it.
        if schema.get("properties", {}).get("tenant", {}).get("type") == "string":
            schema["properties"].pop("tenant")
            if "tenant" in schema.get("required", ()):
                schema["required"].remove("tenant")
    invalid_input = problems(422)[422]
    for path in document["paths"].values():
        for operation in path.values():
            response = operation.get("responses", {}).get("422")
            if response is not None and MEDIA_TYPE not in response.get("content", {}):
                operation["responses"]["422"] = invalid_input
    return document
