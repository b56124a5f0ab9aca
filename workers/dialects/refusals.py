"""Maps every error status and every transport error of an endpoint to one failure.

| endpoint's answer | failure | consequence |
|---|---|---|
| 401, 402, 403, 404, 405, 407, 410; a redirect | ModelTrouble | the model is parked |
| an unknown model or a used-up quota, whatever the status | ModelTrouble | the model is parked |
| 451; a moderation refusal, whatever the status | Filtered | filtered |
| 429 | RateLimited | retried; uses up no try |
| 408, 409, 423, 425, 5xx; no connection, or not all of the request sent | Transient | retried |
| the request was sent and no answer came | OutcomeUnknown | retried; may have been billed |
| 400, 413, 415, 422 and any other 4xx | RequestRefused | fails |

A redirect is not followed: that would send the key and the picture to an address that nobody configured.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from pydantic import SecretStr

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import (
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
from workers.net.http import BodyLost, retry_after_s

_MESSAGE_MAX = 400
_RETRY_LATER = frozenset({408, 409, 423, 425})
_UNKNOWN_MODEL = re.compile(
    r"\b(unknown|no such) model\b|\bmodel:?\s+\S{1,120}\s+(is |was )?(not found|(does not|doesn't|not) exist)",
    re.IGNORECASE,
)
_CONCURRENCY = re.compile(r"concurren|in flight|parallel", re.IGNORECASE)
_RATE = re.compile(r"\b[rti]p[md]\b|per[ -]?(min|day)|/ ?\d* ?min|\brate\b", re.IGNORECASE)
_ECHO = re.compile(r"""(\\?['"]input\\?['"]\s*:|\binput_value=).*""", re.DOTALL)
"""Where a validator repeats its input, for example the prompt: in pydantic's errors as JSON or repr, and as text."""
_LIMIT = re.compile(r"\blimit\b\D{0,4}(\d{1,9})", re.IGNORECASE)

_UNSENDABLE = (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError)
_UNCONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
# The endpoint cannot start an edit before it has the whole form.
_HALF_SENT = (httpx.WriteError, httpx.WriteTimeout)


@dataclass(frozen=True)
class _ErrorBody:
    """The message of an error body, and the words of its `type` and `code`."""

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
    """The failure of an answer with an error status.

    Args:
        status: of the answer, not 2xx.
        headers: of the answer.
        body: of the answer, as far as it was received.
        model: that was called.
        words: of its dialect.
        key: that was sent; messages never contain it, even where the endpoint repeats it.
    """
    error = _read(body, key)
    trace_id = trace_id_of(headers, words)
    reason = f": {error.message}" if error.message else ""
    if status == 451 or error.words & words.filtered:
        message = f"model {model.name} refuses this content ({status}){reason}"
        return Filtered(message, provider_status=status, trace_id=trace_id)
    trouble = _trouble(status, error, headers, model=model, words=words)
    if trouble is not None:
        return ModelTrouble(f"{_where(model)}: {trouble}{reason}", provider_status=status, trace_id=trace_id)
    wait = retry_after_s(headers)
    if status == 429:
        scope, limit = _scope(error.message, headers)
        return RateLimited(
            f"model {model.name} answered that there are too many requests (429){reason}",
            scope=scope,
            limit=limit,
            retry_after_s=_reset_s(headers) if wait is None else wait,
            trace_id=trace_id,
        )
    if status >= 500 or status in _RETRY_LATER:
        message = f"model {model.name} answered {status}{reason}"
        return Transient(message, retry_after_s=wait, provider_status=status, trace_id=trace_id)
    message = f"model {model.name} refuses the request ({status}){reason}"
    return RequestRefused(message, provider_status=status, trace_id=trace_id)


def body_lost(error: BodyLost, model: ModelSpec, words: Vocabulary) -> EditFailure:
    """The failure of an answer with a status of success whose body was not received completely."""
    trace_id = trace_id_of(error.headers, words)
    failure = OutcomeUnknown if isinstance(error.cause, httpx.TimeoutException) else BadResult
    return failure(f"model {model.name}: {error}", provider_status=error.status, trace_id=trace_id, maybe_billed=True)


def transport_failure(error: Exception, model: ModelSpec) -> EditFailure:
    """The failure of a transport error: the question is whether the whole request had been sent."""
    what = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
    if isinstance(error, _UNSENDABLE):
        return ModelTrouble(f"{_where(model)}: cannot be called ({what}): set the model's base_url")
    if isinstance(error, _UNCONNECTED):
        return Transient(f"model {model.name} cannot be reached ({what})")
    if isinstance(error, _HALF_SENT):
        return Transient(f"model {model.name} did not receive the whole request ({what})")
    return OutcomeUnknown(f"model {model.name} received the request and did not answer ({what})", maybe_billed=True)


def _where(model: ModelSpec) -> str:
    """The model, its endpoint and the variable of its key, so that an operator finds the fault."""
    url = model.endpoint.partition("://")[2].rpartition("@")[2]
    key = f"key from {model.api_key_env}" if model.api_key_env else "no key"
    return f"model {model.name} ({url}, {key})"


def _trouble(
    status: int, error: _ErrorBody, headers: Mapping[str, str], *, model: ModelSpec, words: Vocabulary
) -> str | None:
    """The fault of the account or the endpoint, and what to do; None where neither is at fault."""
    variable = model.api_key_env or "api_key_env in retouch.toml"
    if status == 402 or error.words & words.quota:
        return f"the account's quota is used up ({status}): top it up"
    unknown = error.words & words.unknown_model or _UNKNOWN_MODEL.search(error.message)
    if status in {400, 404, 422} and unknown:
        return f"the endpoint has no model {model.provider_model!r} ({status}): configure another model in retouch.toml"
    if 300 <= status < 400:
        target = headers.get("location", "nowhere")[:200]
        return f"the endpoint redirects to {target} ({status}): correct the model's base_url"
    return {
        401: f"the key was refused (401): renew {variable}",
        403: f"the key may not use this model (403): check the account's rights, or renew {variable}",
        404: "the endpoint answers 404: the model may be retired; configure another model in retouch.toml",
        405: "the endpoint has no edits at this path (405): correct the model's base_url",
        407: "a proxy asks for credentials (407)",
        410: "the endpoint is retired (410): configure another model in retouch.toml",
    }.get(status)


def _read(body: bytes, key: SecretStr | None) -> _ErrorBody:
    """Read an error body in any of the forms that endpoints use."""
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        return _ErrorBody(_clean(body[:_MESSAGE_MAX].decode(errors="replace"), key))
    error: Any = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    if not isinstance(error, dict):
        return _ErrorBody(_clean(_text_of(error), key))
    message = error.get("message") or error.get("detail") or ""
    words = frozenset(str(error[name]).lower() for name in ("type", "code") if error.get(name))
    return _ErrorBody(_clean(_text_of(message), key), words)


def _text_of(message: Any) -> str:
    """A message as text. Of FastAPI's errors only `loc` and `msg` are read: other fields repeat the request."""
    if isinstance(message, list):
        # Nested lists are not read, however deep they are.
        return "; ".join(filter(None, (_text_of(part) for part in message if not isinstance(part, list))))
    if not isinstance(message, dict):
        return str(message)
    loc, msg = message.get("loc"), message.get("msg") or message.get("message")
    where = ".".join(map(str, loc)) if isinstance(loc, list) else ""
    return ": ".join(filter(None, (where, msg if isinstance(msg, str) else "")))


def _clean(text: str, key: SecretStr | None) -> str:
    """One line of bounded length, without control characters, without the key, and without a validator's input."""
    text = _ECHO.sub(r"\1 …", text)
    if key is not None and key.get_secret_value():
        text = text.replace(key.get_secret_value(), "***")
    return re.sub(r"[\x00-\x20\x7f]+", " ", text).strip()[:_MESSAGE_MAX]


def _scope(message: str, headers: Mapping[str, str]) -> tuple[Literal["rate", "concurrency", "unknown"], int | None]:
    """What a 429 limits, and the limit, as far as the answer says so."""
    found = _LIMIT.search(message)
    limit = int(found[1]) if found else None
    if _CONCURRENCY.search(message):
        return "concurrency", limit
    named = headers.get("x-ratelimit-limit-requests", "")
    if limit is None and re.fullmatch(r"[0-9]{1,9}", named):
        limit = int(named)
    return ("rate" if named or _RATE.search(message) else "unknown"), limit


def _reset_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from OpenAI's `x-ratelimit-reset-requests` (`1s`, `6m0s`, `20ms`) where no requests remain."""
    text = headers.get("x-ratelimit-reset-requests", "")
    parts = re.findall(r"(\d{1,9}(?:\.\d{1,9})?)(ms|h|m|s)", text)
    spent = headers.get("x-ratelimit-remaining-requests", "0") == "0"
    if not spent or not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in parts)
