"""Fetching a result that a provider holds. The edit is paid for: only what is gone for good is edited again."""

from collections.abc import Callable

import httpx

from jobs.catalogue.catalogue import ModelSpec
from jobs.foundation.errors import BadResult, DownloadFailed, Interrupted, ModelTrouble, ResultGone
from workers.net.http import FOREIGN, BadRedirect, BodyLost, Http, Reach, Stopped, TooLong, retry_after_s
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
    """Fetch a result, without the key: result URLs need none, and it would go to whatever host they name.

    The URL came from the endpoint, not from the operator. So the guard holds for it as for a user's, with two
    differences: the endpoint's own host may be reached wherever it is, since the operator configured it, and `http` is
    taken, since what is paid for must be fetched.

    Args:
        http: the clients.
        url: absolute.
        model: whose result it is; bounds its size.
        deadline_s: seconds for all of it; the model's `timeout_s` unless given.
        stop: whether to give up, asked now and then.

    Raises:
        ResultGone: it can no longer be fetched, ever.
        DownloadFailed: not this time.
        BadResult: it is larger than the model's results may be, or its address is none.
        ModelTrouble: it lies where no request may go; another edit would lie there too.
        Interrupted: `stop` said so.
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
    except AddressRefused as error:
        raise ModelTrouble(
            f"model {model.name} keeps its results at an address that may not be reached ({error}): if that is right, "
            "name the network in RETOUCH_ALLOW_PRIVATE_ADDRESSES",
            maybe_billed=True,
        ) from error
    except (BadRedirect, httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
        raise BadResult(
            f"model {model.name} delivered an address that may not be fetched: {error}", maybe_billed=True
        ) from error
    except TooLong as error:
        raise BadResult(f"the result of model {model.name} is too large: {error}", maybe_billed=True) from error
    except Stopped as error:
        raise Interrupted("the worker stopped before the result was fetched") from error
    except (BodyLost, *FOREIGN) as error:
        raise DownloadFailed(f"the result did not come: {error or type(error).__name__}") from error
    if reply.status == 200:
        return reply.body
    if reply.status in _GONE:
        raise ResultGone(f"the result is gone: its server answered {reply.status}", provider_status=reply.status)
    raise DownloadFailed(
        f"the result's server answered {reply.status}",
        retry_after_s=retry_after_s(reply.headers),
        provider_status=reply.status,
    )
