"""The knobs: everything about the simulated endpoint that a test, a demo or a measurement may want different."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _split(value: object) -> object:
    """Read ``a,b`` as two items: the form a list has on a command line."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]
Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
Statuses = Annotated[tuple[Annotated[int, Field(ge=400, le=599)], ...], BeforeValidator(_split)]


class Knobs(BaseModel):
    """The settings of a running simulator; replaced as a whole, never changed in place.

    Rates are shares of calls from 0 to 1. A call that carries an ending directive is spared the dice of the rates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: Words = Field(("sim-key",), description="API keys that are accepted")
    latency_ms: Milliseconds = Field(0, description="how long an edit takes")
    latency_jitter_ms: Milliseconds = Field(0, description="up to so much more or less, evenly spread")
    rpm: Count = Field(0, description="accepted starts in any 60 s, for each key and model; 0 is no limit")
    concurrency: Count = Field(0, description="calls in flight, for each key and model; 0 is no limit")
    retry_after: Literal["none", "seconds", "date"] = Field(
        "none", description="form of Retry-After on a 429; OpenAI's models send seconds where this says none"
    )
    retry_after_s: Count = Field(1, description="the wait that Retry-After names where no limit tells one")
    quota_exhausted: bool = Field(default=False, description="the account is empty: 402, or insufficient_quota")
    error_rate: Rate = Field(0, description="calls answered with one of error_statuses")
    error_statuses: Statuses = Field((500, 503), description="what error_rate answers")
    reset_rate: Rate = Field(0, description="connections reset without an answer")
    hang_rate: Rate = Field(0, description="calls never answered")
    truncate_rate: Rate = Field(0, description="answers that end halfway through their Content-Length")
    garbage_rate: Rate = Field(0, description="200 answers that are no JSON")
    bad_image_rate: Rate = Field(0, description="results that do not decode")
    drip_bytes_per_s: Count = Field(0, description="answers come this slowly; 0 is at once")
    oversized_bytes: Count = Field(0, description="answers are padded to this size; 0 is not")
    wrong_size: bool = Field(default=False, description="results have half the input's size")
    filtered_prompts: Words = Field((), description="parts of prompts that the content filter stops")
    retired: Literal["none", "404", "405", "410", "plain"] = Field(
        "none", description="the endpoint has gone; plain is the plain-text 404 of a wrong path"
    )
    result_ttl_s: Annotated[float, Field(ge=0)] = Field(7200, description="how long a result's URL lives")
    download_fail: Annotated[int, Field(ge=-1)] = Field(0, description="next downloads answered 503; -1 is all")
    download_latency_ms: Milliseconds = Field(0, description="how long a download waits for its first byte")
    fast: bool = Field(default=False, description="for measurements: one prepared result for each size and format")
    output_format: Literal["png", "jpeg", "webp"] = Field("png", description="format of results")
    result_memory_mb: Annotated[int, Field(ge=1)] = Field(256, description="results kept; the oldest go first")
    rng_seed: int = Field(0, description="seed of every random choice")
