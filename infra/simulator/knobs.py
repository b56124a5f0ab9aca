"""The knobs: the settings of the simulated endpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _split(value: object) -> object:
    """Parse ``a,b`` as two items, the form of a list on a command line."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_split)]
Statuses = Annotated[tuple[Annotated[int, Field(ge=400, le=599)], ...], BeforeValidator(_split)]


class Knobs(BaseModel):
    """The settings of a running simulator; immutable, replaced as a whole.

    Rates are fractions of calls from 0 to 1. They do not apply to a call with an ending directive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: Strings = Field(("sim-key",), description="accepted API keys")
    latency_ms: Milliseconds = Field(0, description="how long an edit takes")
    latency_jitter_ms: Milliseconds = Field(
        0, description="added to or subtracted from the latency, uniformly distributed"
    )
    rpm: Count = Field(0, description="accepted starts in any 60 s, for each key and model; 0 means no limit")
    concurrency: Count = Field(0, description="calls in flight, for each key and model; 0 means no limit")
    retry_after: Literal["none", "seconds", "date"] = Field(
        "none", description="format of Retry-After on a 429; OpenAI's models send seconds in place of none"
    )
    retry_after_s: Count = Field(1, description="the wait in Retry-After if no limit determines it")
    quota_exhausted: bool = Field(default=False, description="the account is empty: 402, or insufficient_quota")
    error_rate: Rate = Field(0, description="calls answered with one of error_statuses")
    error_statuses: Statuses = Field((500, 503), description="statuses that error_rate chooses from")
    reset_rate: Rate = Field(0, description="connections reset without an answer")
    hang_rate: Rate = Field(0, description="calls that are never answered")
    truncate_rate: Rate = Field(0, description="answers that end halfway through their Content-Length")
    garbage_rate: Rate = Field(0, description="answers with status 200 and a body that is not JSON")
    bad_image_rate: Rate = Field(0, description="results that do not decode")
    drip_bytes_per_s: Count = Field(0, description="send answers at this speed; 0 means at full speed")
    oversized_bytes: Count = Field(0, description="pad answers to this size; 0 means no padding")
    wrong_size: bool = Field(default=False, description="results have half the input's size")
    filtered_prompts: Strings = Field((), description="the content filter blocks prompts that contain one of these")
    retired: Literal["none", "404", "405", "410", "plain"] = Field(
        "none", description="the endpoint is retired; plain is the plain-text 404 of a wrong path"
    )
    result_ttl_s: Annotated[float, Field(ge=0)] = Field(7200, description="how long a result's URL is valid")
    download_fail: Annotated[int, Field(ge=-1)] = Field(
        0, description="number of next downloads to answer with 503; -1 means all"
    )
    download_latency_ms: Milliseconds = Field(0, description="time to the first byte of a download")
    fast: bool = Field(default=False, description="for benchmarks: one prepared result for each size and format")
    output_format: Literal["png", "jpeg", "webp"] = Field("png", description="format of results")
    result_memory_mb: Annotated[int, Field(ge=1)] = Field(
        256, description="memory for results; the oldest are dropped first"
    )
    rng_seed: int = Field(0, description="seed of every random choice")
