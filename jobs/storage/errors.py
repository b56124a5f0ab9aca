"""What went wrong at the store, told from every error that boto3 and botocore raise: the one border for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from boto3.exceptions import Boto3Error
from botocore import exceptions as boto
from urllib3.exceptions import HTTPError, ProxySchemeUnsupported

from jobs.foundation.errors import InputRejected, InputUnavailable, NotFound, RetouchError, Unavailable

Kind = Literal["missing", "forbidden", "conflict", "unsupported", "unknown_bucket", "credentials", "trouble"]

FOREIGN: tuple[type[Exception], ...] = (
    boto.BotoCoreError,
    boto.ClientError,
    boto.UndefinedModelAttributeError,
    Boto3Error,
    HTTPError,
    ProxySchemeUnsupported,
    OSError,
)
"""Everything that a call on the store may raise."""

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; a HEAD has no body, so its code is the status.
_CODES: dict[str, Kind] = {
    "NoSuchKey": "missing",
    "NoSuchVersion": "missing",
    "404": "missing",
    "NoSuchBucket": "unknown_bucket",
    "AllAccessDisabled": "forbidden",
    "AccessDenied": "forbidden",
    "InvalidObjectState": "forbidden",
    "403": "forbidden",
    "PreconditionFailed": "conflict",
    "ConditionalRequestConflict": "conflict",
    "412": "conflict",
    "NotImplemented": "unsupported",
    "501": "unsupported",
    "ExpiredToken": "credentials",
    "InvalidAccessKeyId": "credentials",
    "InvalidToken": "credentials",
    "RequestTimeTooSkewed": "credentials",
    "SignatureDoesNotMatch": "credentials",
}
# What stores that do not know a conditional header answer with 400.
_HEADER_NOT_TAKEN = frozenset({"InvalidArgument", "InvalidRequest", "MalformedHeader", "UnsupportedHeader"})


@dataclass(frozen=True)
class Fault:
    """One failed call on the store.

    Attributes:
        kind: `missing` no such object; `forbidden` the store refuses this object; `conflict` a condition did not hold;
            `unsupported` the store does not know what was asked; `unknown_bucket` no such bucket; `credentials` they
            are missing or refused; `trouble` anything else, which may be better another time.
        message: one sentence for an operator.
    """

    kind: Kind
    message: str


def fault_of(error: Exception) -> Fault:
    """What an error of boto3's, botocore's or the operating system's means."""
    if isinstance(error, boto.ClientError):
        return _answered(error)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return Fault("credentials", f"no credentials for the store: {error}; set AWS_ACCESS_KEY_ID and its like")
    if isinstance(error, boto.ConnectTimeoutError | boto.EndpointConnectionError | boto.ProxyConnectionError):
        return Fault("trouble", f"the store cannot be reached: {error}; see RETOUCH_S3_ENDPOINT_URL")
    if isinstance(error, boto.HTTPClientError | HTTPError | OSError):
        return Fault("trouble", f"the connection to the store failed: {error}")
    return Fault("trouble", f"the store could not be used: {type(error).__name__}: {error}")


def _answered(error: boto.ClientError) -> Fault:
    response: dict[str, Any] = dict(error.response)
    answer = response.get("Error") or {}
    status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    code = str(answer.get("Code") or status or "")
    said = f"{code}: {answer.get('Message') or 'no reason given'}"
    if status == 400 and code in _HEADER_NOT_TAKEN:
        return Fault("unsupported", f"the store does not take the request ({said})")
    kind = _CODES.get(code) or _CODES.get(str(status), "trouble")
    words: dict[Kind, str] = {
        "unknown_bucket": f"the store has no such bucket ({said}): create it, or set RETOUCH_S3_BUCKET",
        "credentials": f"the store refuses our credentials ({said}): see AWS_ACCESS_KEY_ID and this machine's clock",
        "forbidden": f"the store refuses access ({said})",
    }
    return Fault(kind, words.get(kind, f"the store answered {said}"))


@contextmanager
def border(translate: Callable[[Fault], Exception]) -> Iterator[None]:
    """Let nothing foreign through: what the store's libraries raise leaves as what `translate` makes of it."""
    try:
        yield
    except FOREIGN as error:
        raise translate(fault_of(error)) from error


def unavailable(fault: Fault) -> RetouchError:
    """The error of who asks about an object, or for the bucket's state."""
    return NotFound(fault.message) if fault.kind == "missing" else Unavailable(fault.message)


def input_fault(fault: Fault, bucket: str, key: str) -> RetouchError:
    """The error of a job whose input is that object."""
    if fault.kind == "missing":
        return InputRejected(f"there is no object s3://{bucket}/{key}")
    if fault.kind == "forbidden":
        return InputRejected(f"s3://{bucket}/{key} may not be read: {fault.message}")
    return InputUnavailable(f"s3://{bucket}/{key}: {fault.message}")
