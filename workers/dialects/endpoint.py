"""The call, which both dialects share: prepare, send once, read the answer."""

import re
from collections.abc import Callable

import httpx

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import BadResult, Interrupted, ModelTrouble, RequestRefused
from jobs.foundation.media_types import EXTENSIONS
from workers.dialects.answers import read_answer
from workers.dialects.calls import Answer, EditCall
from workers.dialects.form import fields
from workers.dialects.refusals import body_lost, refusal, transport_failure
from workers.dialects.vocabulary import Vocabulary
from workers.edits.download_result import download
from workers.net.http import FOREIGN, BodyLost, Http, Reach, Reply, Stopped, TooLong

_SLACK = 1 << 16
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Endpoint:
    """A `Dialect` of endpoints that take a multipart form at `{base_url}/images/edits`.

    Dialects differ in their form fields, which the catalogue names, and in their words.

    Args:
        http: the clients.
        words: of the dialect.
    """

    def __init__(self, http: Http, words: Vocabulary) -> None:
        self._http = http
        self._words = words

    def edit(self, call: EditCall) -> Answer:
        """Request an edit once, without retries.

        Raises:
            EditFailure: for every error; no other exception is raised.
        """
        model = call.model
        headers = _headers(call)
        try:
            reply = self._send(call, headers)
        except TooLong as error:
            raise BadResult(f"the answer of model {model.name} is too large: {error}", maybe_billed=True) from error
        except Stopped as error:
            raise Interrupted("the worker stopped before the edit was requested") from error
        except BodyLost as error:
            if not 200 <= error.status < 300:  # the status is enough
                raise refusal(error.status, error.headers, b"", model=model, words=self._words, key=call.key) from error
            raise body_lost(error, model, self._words) from error
        except (httpx.InvalidURL, *FOREIGN) as error:
            raise transport_failure(error, model) from error
        except UnicodeError as error:
            raise RequestRefused("a parameter holds characters that are not valid text") from error
        if 200 <= reply.status < 300:
            return read_answer(reply, model, self._words)
        raise refusal(reply.status, reply.headers, reply.body, model=model, words=self._words, key=call.key)

    def download(self, url: str, model: ModelSpec, *, stop: Callable[[], bool] | None = None) -> bytes:
        """Fetch a result that the endpoint holds; see `workers.edits.download_result`."""
        return download(self._http, url, model, stop=stop)

    def _send(self, call: EditCall, headers: dict[str, str]) -> Reply:
        model = call.model
        return self._http.exchange(
            "POST",
            model.endpoint,
            reach=Reach.OPERATOR,
            deadline_s=min(model.timeout_s, call.timeout_s or model.timeout_s),
            connect_timeout_s=model.connect_timeout_s,
            max_bytes=model.max_result_bytes * 4 // 3 + _SLACK,
            headers=headers,
            data=fields(model, call.parameters),
            files={model.image_field: (call.filename or _filename(call.media_type), call.picture, call.media_type)},
            stop=call.stop,
        )


def _filename(media_type: str) -> str:
    return f"image.{EXTENSIONS.get(media_type, 'bin')}"


def _headers(call: EditCall) -> dict[str, str]:
    headers = {"accept": "application/json"}
    # An invalid trace context of a submit must not make the call impossible.
    if call.traceparent and _TRACEPARENT.fullmatch(call.traceparent):
        headers["traceparent"] = call.traceparent
    key = _key(call)
    if key:
        headers["authorization"] = f"Bearer {key}"
    return headers


def _key(call: EditCall) -> str:
    """The key to send; "" where the endpoint needs none.

    Raises:
        ModelTrouble: the endpoint needs a key and there is none, or the key is invalid.
    """
    model = call.model
    key = call.key.get_secret_value() if call.key else ""
    if model.api_key_env and not key:
        raise ModelTrouble(f"model {model.name}: there is no key: set {model.api_key_env} for the workers")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ModelTrouble(
            f"model {model.name}: {model.api_key_env} holds white space or characters that no key has: correct it"
        )
    return key
