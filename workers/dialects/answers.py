"""Reading an endpoint's answer with a status of success; every field is checked."""

import base64
import binascii
import json
from typing import Any

import httpx

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import BadResult, Filtered
from workers.dialects.calls import Answer
from workers.dialects.vocabulary import Vocabulary
from workers.net.http import Reply


def trace_id_of(headers: httpx.Headers, words: Vocabulary) -> str | None:
    """The endpoint's id of a call."""
    name = next((headers[name] for name in words.trace_headers if headers.get(name)), None)
    return name[:128] if name else None


def read_answer(reply: Reply, model: ModelSpec, words: Vocabulary) -> Answer:
    """The answer in a reply with a status of success.

    Raises:
        Filtered: the endpoint's content filter stopped the edit.
        BadResult: the reply breaks the endpoint's contract.
    """
    trace_id = trace_id_of(reply.headers, words)

    def bad(what: str) -> BadResult:
        return BadResult(
            f"model {model.name} answered {reply.status} with {what}",
            provider_status=reply.status,
            trace_id=trace_id,
            maybe_billed=True,
        )

    try:
        body: Any = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise bad("invalid JSON") from error
    results = body.get("data") if isinstance(body, dict) else None
    if not isinstance(results, list) or not results or not isinstance(results[0], dict):
        raise bad("no result in `data`")
    result: dict[str, Any] = results[0]
    reason = result.get("finish_reason")
    reason = None if reason is None else str(reason)[:60]
    if reason in words.stopped:
        raise Filtered(
            f"the content filter of model {model.name} stopped the edit ({reason})",
            provider_status=reply.status,
            trace_id=trace_id,
            maybe_billed=True,
        )
    if reason and reason not in words.done:
        raise bad(f"the finish reason {reason!r}")
    encoded, url = result.get("b64_json"), result.get("url")
    data = address = None
    if isinstance(encoded, str) and encoded:
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise bad("a `b64_json` that cannot be decoded") from error
        if len(data) > model.max_result_bytes:
            raise bad(f"a result of {len(data):,} bytes, at most {model.max_result_bytes:,} are allowed")
    elif isinstance(url, str) and url:
        address = _absolute(url, model)
        if address is None:
            raise bad("an invalid `url`")
    else:
        raise bad("neither `url` nor `b64_json`")
    identity = body.get("id")
    return Answer(
        url=address,
        data=data,
        seed=_whole(result.get("seed")),
        finish_reason=reason,
        trace_id=trace_id,
        provider_id=str(identity)[:128] if identity else None,
    )


def _absolute(url: str, model: ModelSpec) -> str | None:
    """A result's address, resolved against the endpoint where it is relative; None if it is not a web address."""
    try:
        joined = httpx.URL(model.base_url.rstrip("/") + "/").join(url)
    except (httpx.InvalidURL, ValueError):
        return None
    return str(joined) if joined.scheme in {"http", "https"} and joined.host else None


def _whole(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
