"""Convert every error of boto3, botocore and urllib3 to a fault of the store."""

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
"""All errors that a request to the store may raise."""

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
# Stores that do not support a conditional header answer 400 with one of these codes.
_UNSUPPORTED_HEADER = frozenset({"InvalidArgument", "InvalidRequest", "MalformedHeader", "UnsupportedHeader"})


@dataclass(frozen=True)
class Fault:
    """A failed request to the store.

    Attributes:
        kind: `missing`: no such object; `forbidden`: the store refuses access to the object; `conflict`: a condition is
            false; `unsupported`: the store does not support the request; `unknown_bucket`: no such bucket;
            `credentials`: missing or refused; `trouble`: any other fault, a retry may succeed.
        message: one sentence for an operator.
    """

    kind: Kind
    message: str


def fault_of(error: Exception) -> Fault:
    """Convert an error of boto3, botocore, urllib3 or the operating system."""
    if isinstance(error, boto.ClientError):
        return _response_fault(error)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return Fault(
            "credentials", f"no credentials for the store: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, boto.ConnectTimeoutError | boto.EndpointConnectionError | boto.ProxyConnectionError):
        return Fault("trouble", f"the store cannot be reached: {error}; see RETOUCH_S3_ENDPOINT_URL")
    if isinstance(error, boto.HTTPClientError | HTTPError | OSError):
        return Fault("trouble", f"the connection to the store failed: {error}")
    return Fault("trouble", f"the store could not be used: {type(error).__name__}: {error}")


def _response_fault(error: boto.ClientError) -> Fault:
    response: dict[str, Any] = dict(error.response)
    answer = response.get("Error") or {}
    status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    code = str(answer.get("Code") or status or "")
    reason = f"{code}: {answer.get('Message') or 'no reason given'}"
    if status == 400 and code in _UNSUPPORTED_HEADER:
        return Fault("unsupported", f"the store does not support the request ({reason})")
    kind = _CODES.get(code) or _CODES.get(str(status), "trouble")
    messages: dict[Kind, str] = {
        "unknown_bucket": f"the store has no such bucket ({reason}): create it, or set RETOUCH_S3_BUCKET",
        "credentials": f"the store refuses our credentials ({reason}): see AWS_ACCESS_KEY_ID and this machine's clock",
        "forbidden": f"the store refuses access ({reason})",
    }
    return Fault(kind, messages.get(kind, f"the store answered {reason}"))


@contextmanager
def border(translate: Callable[[Fault], Exception]) -> Iterator[None]:
    """Convert every error of the store's libraries in the block to the error that `translate` returns."""
    try:
        yield
    except FOREIGN as error:
        raise translate(fault_of(error)) from error


def unavailable(fault: Fault) -> RetouchError:
    """The error for a caller that needs an object or the bucket: NotFound or Unavailable."""
    return NotFound(fault.message) if fault.kind == "missing" else Unavailable(fault.message)


def input_fault(fault: Fault, bucket: str, key: str) -> RetouchError:
    """The error of a job whose input is this object."""
    if fault.kind == "missing":
        return InputRejected(f"there is no object s3://{bucket}/{key}")
    if fault.kind == "forbidden":
        return InputRejected(f"s3://{bucket}/{key} may not be read: {fault.message}")
    return InputUnavailable(f"s3://{bucket}/{key}: {fault.message}")
