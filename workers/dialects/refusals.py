"""What an endpoint's no means: every status, and every error of the transport, becomes one failure.

| endpoint says | failure | then |
|---|---|---|
| 401, 402, 403, 404, 405, 407, 410; an unknown model or a used-up quota, whatever the status; a redirect | ModelTrouble | the model is parked |
| 451; a moderation refusal, whatever the status | Filtered | filtered |
| 429 | RateLimited | waits, costs no attempt |
| 408, 409, 423, 425, 5xx; no connection, or not all of the request sent | Transient | retried |
| the request was sent and no answer came | OutcomeUnknown | retried; may have been billed |
| 400, 413, 415, 422 and any other 4xx | RequestRefused | fails |

A redirect is the endpoint's fault, not a detour: following it would send the key and the picture to an address that
nobody configured.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from pydantic import SecretStr

from jobs.catalogue import ModelSpec
from jobs.errors import (
    BadResult,
    EditFailure,
    Filtered,
    ModelTrouble,
    OutcomeUnknown,
    RateLimited,
    RequestRefused,
    Transient,
)
from workers.dialects.answers import trace_id_of
from workers.dialects.vocabulary import Vocabulary
from workers.http import BodyLost, retry_after_s

_MESSAGE_MAX = 400
_AGAIN = frozenset({408, 409, 423, 425})
_UNKNOWN_MODEL = re.compile(
    r"model\b.{0,120}?\b(not found|does(n't| not) exist|not exist|not supported|unknown)", re.IGNORECASE | re.DOTALL
)
_CONCURRENCY = re.compile(r"concurren|in flight|parallel", re.IGNORECASE)
_RATE = re.compile(r"\brpm\b|\btpm\b|\bipm\b|per[ -]?min|per[ -]?day|/ ?\d* ?min|rate", re.IGNORECASE)
_LIMIT = re.compile(r"\blimit\b\D{0,4}(\d{1,9})", re.IGNORECASE)


@dataclass(frozen=True)
class _Said:
    """An error body's words."""

    message: str = ""
    words: frozenset[str] = frozenset()


def refusal(
    status: int,
    headers: httpx.Headers,
    body: bytes,
    *,
    model: ModelSpec,
    words: Vocabulary,
    key: SecretStr | None = None,
) -> EditFailure:
    """The failure that an answer without success means.

    Args:
        status: of the answer, not 2xx.
        headers: of the answer.
        body: of the answer, as far as it came.
        model: that was asked.
        words: of its dialect.
        key: that was sent; it never shows in a message, even where the endpoint repeats it.
    """
    said = _read(body, key)
    trace_id = trace_id_of(headers, words)
    reason = f": {said.message}" if said.message else ""
    if status == 451 or said.words & words.filtered:
        return Filtered(
            f"model {model.name} refuses this content ({status}){reason}", provider_status=status, trace_id=trace_id
        )
    trouble = _trouble(status, said, headers, model, words)
    if trouble is not None:
        return ModelTrouble(f"model {model.name}: {trouble}{reason}", provider_status=status, trace_id=trace_id)
    wait = retry_after_s(headers)
    if status == 429:
        scope, limit = _scope(said.message, headers)
        if wait is None:
            wait = _reset_s(headers)
        return RateLimited(
            f"model {model.name} says it is too much (429){reason}",
            scope=scope,
            limit=limit,
            retry_after_s=wait,
            trace_id=trace_id,
        )
    if status >= 500 or status in _AGAIN:
        return Transient(
            f"model {model.name} answered {status}{reason}",
            retry_after_s=wait,
            provider_status=status,
            trace_id=trace_id,
        )
    return RequestRefused(
        f"model {model.name} calls the request wrong ({status}){reason}", provider_status=status, trace_id=trace_id
    )


def _trouble(status: int, said: _Said, headers: httpx.Headers, model: ModelSpec, words: Vocabulary) -> str | None:
    """What an operator must know and do, where the account or the endpoint is at fault; None where it is not."""
    path = httpx.URL(model.endpoint).path
    key = f"the key in {model.api_key_env}" if model.api_key_env else "no key (api_key_env is not set in retouch.toml)"
    table = f"[models.{model.name}] in retouch.toml"
    if said.words & words.quota or status == 402:
        return f"the account's quota is used up ({status}): top it up, or change {model.api_key_env or 'the account'}"
    if status in {400, 404, 422} and (said.words & words.unknown_model or _UNKNOWN_MODEL.search(said.message)):
        return (
            f"the endpoint knows no model {model.provider_model!r} ({status} at {path}): configure another in {table}"
        )
    if 300 <= status < 400:
        target = headers.get("location", "nowhere")[:200]
        return f"the endpoint redirects {path} to {target} ({status}): set base_url of {table} to where it is"
    sentences = {
        401: f"{key} was refused (401): renew it",
        403: f"{key} may not use this model (403 at {path}): check the account's rights, or configure another in {table}",
        404: f"the endpoint answers 404 at {path}: it seems retired; configure another model in retouch.toml",
        405: f"the endpoint does not edit at {path} (405): check base_url of {table}",
        407: "a proxy in between asks for credentials (407)",
        410: f"the endpoint is retired (410 at {path}): configure another model in retouch.toml",
    }
    return sentences.get(status)


def transport_failure(error: Exception, model: ModelSpec, words: Vocabulary) -> EditFailure:
    """The failure that an error of httpx means: what matters is whether the whole request had been sent."""
    name = f"model {model.name}"
    what = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
    if isinstance(error, BodyLost):
        if isinstance(error.cause, httpx.TimeoutException):
            return OutcomeUnknown(f"{name} did not finish its answer in time", maybe_billed=True)
        return BadResult(
            f"{name}: {error}",
            provider_status=error.status,
            trace_id=trace_id_of(error.headers, words),
            maybe_billed=True,
        )
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL | httpx.LocalProtocolError):
        return ModelTrouble(f"{name} cannot be called ({what}): check base_url and {model.api_key_env or 'the key'}")
    unsent = httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError
    if isinstance(error, unsent):
        return Transient(f"{name} cannot be reached ({what})")
    # A part of a form is no request: the endpoint cannot have worked on it.
    if isinstance(error, httpx.WriteError | httpx.WriteTimeout):
        return Transient(f"{name} did not take the whole request ({what})")
    if isinstance(error, httpx.DecodingError):
        return BadResult(f"{name}: {what}", maybe_billed=True)
    return OutcomeUnknown(f"{name} was asked and did not answer ({what})", maybe_billed=True)


def _read(body: bytes, key: SecretStr | None) -> _Said:
    """The message and the stable words of an error body in any of the forms endpoints use."""
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        return _Said(_clean(body[:_MESSAGE_MAX].decode(errors="replace"), key))
    error: Any = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    if not isinstance(error, dict):
        return _Said(_clean(str(error), key))
    message = error.get("message") or error.get("detail") or ""
    words = frozenset(str(error[name]).lower() for name in ("type", "code") if error.get(name))
    return _Said(_clean(message if isinstance(message, str) else json.dumps(message), key), words)


def _clean(text: str, key: SecretStr | None) -> str:
    """One line without control characters, of bounded length, without the key."""
    if key is not None and key.get_secret_value():
        text = text.replace(key.get_secret_value(), "***")
    return re.sub(r"[\x00-\x20\x7f]+", " ", text).strip()[:_MESSAGE_MAX]


def _scope(message: str, headers: Mapping[str, str]) -> tuple[Literal["rate", "concurrency", "unknown"], int | None]:
    """What a 429 limits, and to how many, as far as it says."""
    found = _LIMIT.search(message)
    limit = int(found[1]) if found else None
    if _CONCURRENCY.search(message):
        return "concurrency", limit
    named = headers.get("x-ratelimit-limit-requests", "")
    if _RATE.search(message) or named:
        return "rate", limit if limit is not None else (int(named) if re.fullmatch(r"[0-9]{1,9}", named) else None)
    return "unknown", limit


def _reset_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from OpenAI's `x-ratelimit-reset-requests`, written like `1s`, `6m0s` or `20ms`, where none are left."""
    if headers.get("x-ratelimit-remaining-requests", "0") != "0":
        return None
    text = headers.get("x-ratelimit-reset-requests", "")
    if not re.fullmatch(r"([0-9.]{1,12}(ms|h|m|s))+", text):
        return None
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        return sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+)(ms|h|m|s)", text))
    except ValueError:
        return None
