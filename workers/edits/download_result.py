"""Downloading a result that the provider holds. The edit is paid: only a result that is gone is bought again."""

from collections.abc import Callable

import httpx

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import BadResult, DownloadFailed, EditFailure, Interrupted, ModelTrouble, ResultGone
from workers.net.http import FOREIGN, BadRedirect, BodyLost, Http, Reach, Reply, Stopped, TooLong, retry_after_s
from workers.net.ssrf_guard import AddressRefused

MAX_REDIRECTS = 4
_GONE = frozenset({403, 404, 410})


def download(
    http: Http,
    url: str,
    model: ModelSpec,
    *,
    deadline_s: float | None = None,
    stop: Callable[[], bool] | None = None,
) -> bytes:
    """Download a result, without the key: result URLs need none, and any host may be in such a URL.

    The endpoint gave the URL, not the operator. So the guard applies as to a user's URL, with two differences: the
    endpoint's own host may have any address, since the operator configured it, and `http` is allowed, since the result
    is paid.

    Args:
        http: the clients.
        url: absolute.
        model: whose result it is; limits its size.
        deadline_s: how long the whole download may take, in seconds; the model's `timeout_s` unless given.
        stop: whether to stop early; it is called repeatedly.

    Raises:
        ResultGone: a later download cannot succeed.
        DownloadFailed: a later download may succeed.
        BadResult: the result is larger than allowed, or its address is invalid.
        ModelTrouble: the guard refuses the address; it would refuse that of another edit, too.
        Interrupted: `stop` returned True.
    """
    try:
        reply = http.exchange(
            "GET",
            url,
            reach=Reach.PUBLIC,
            trusted_host=httpx.URL(model.base_url).host,
            deadline_s=deadline_s or model.timeout_s,
            connect_timeout_s=model.connect_timeout_s,
            max_bytes=model.max_result_bytes,
            hops=MAX_REDIRECTS,
            stop=stop,
        )
    except Stopped as error:
        raise Interrupted("the worker stopped before the result was fetched") from error
    except (
        AddressRefused, BadRedirect, httpx.InvalidURL, UnicodeError, TooLong, BodyLost, *FOREIGN
    ) as error:  # fmt: skip
        raise _failure(error, model) from error
    return _result(reply)


def _failure(error: Exception, model: ModelSpec) -> EditFailure:
    """The failure of a download without an answer."""
    match error:
        case AddressRefused():
            return ModelTrouble(
                f"model {model.name} keeps its results at a forbidden address ({error}): if the address is right, add "
                "its network to RETOUCH_ALLOW_PRIVATE_ADDRESSES",
                maybe_billed=True,
            )
        case BadRedirect() | httpx.InvalidURL() | httpx.UnsupportedProtocol() | UnicodeError():
            return BadResult(
                f"model {model.name} delivered an address that cannot be fetched: {error}", maybe_billed=True
            )
        case TooLong():
            return BadResult(f"the result of model {model.name} is too large: {error}", maybe_billed=True)
        case _:
            return DownloadFailed(f"the result was not received: {str(error) or type(error).__name__}")


def _result(reply: Reply) -> bytes:
    """The bytes of a result.

    Raises:
        ResultGone, DownloadFailed: as `download` raises them.
    """
    if reply.status == 200:
        return reply.body
    if reply.status in _GONE:
        raise ResultGone(f"the result is gone: its server answered {reply.status}", provider_status=reply.status)
    raise DownloadFailed(
        f"the result's server answered {reply.status}",
        retry_after_s=retry_after_s(reply.headers),
        provider_status=reply.status,
    )
