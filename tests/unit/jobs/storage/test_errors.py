"""Every error of the store's libraries is converted."""

import inspect
from collections.abc import Iterator

import boto3.exceptions
import botocore.exceptions
import pytest
import urllib3.exceptions
from botocore.exceptions import BotoCoreError, ClientError

from jobs.foundation.errors import Unavailable
from jobs.storage.errors import FOREIGN, Fault, border, fault_of


class _AnyField(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return f"<{name}>"


_WITH_ARGUMENTS: dict[type[Exception], tuple[object, ...]] = {
    urllib3.exceptions.IncompleteRead: (1, 2),
    urllib3.exceptions.InvalidChunkLength: (urllib3.HTTPResponse(), b"x"),
}


def instance_of(kind: type[Exception]) -> Exception:
    """Create an error, whatever arguments its constructor needs."""
    if kind in _WITH_ARGUMENTS:
        return kind(*_WITH_ARGUMENTS[kind])
    error = kind.__new__(kind)
    if issubclass(kind, BotoCoreError):
        text = kind.fmt.format_map(_AnyField())
        Exception.__init__(error, text)
        error.kwargs = {}  # type: ignore[attr-defined]
    else:
        Exception.__init__(error, "message")
    return error


def foreign_kinds() -> Iterator[type[Exception]]:
    for module in (botocore.exceptions, boto3.exceptions, urllib3.exceptions):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            warning = issubclass(kind, Warning)
            if issubclass(kind, Exception) and not warning and kind.__module__ == module.__name__:
                yield kind
    yield from (OSError, ConnectionResetError, BrokenPipeError, TimeoutError)


KINDS = [kind for kind in foreign_kinds() if kind is not ClientError and not issubclass(kind, ClientError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_error_of_the_libraries_becomes_a_fault(kind: type[Exception]) -> None:
    assert issubclass(kind, FOREIGN), f"{kind.__name__} is not converted"
    with pytest.raises(Unavailable, match="store"), border(lambda fault: Unavailable(fault.message)):
        raise instance_of(kind)


def client_error(code: str, status: int) -> ClientError:
    response = {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "Op")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchKey", 404, "missing"),
        ("404", 404, "missing"),
        ("NoSuchBucket", 404, "unknown_bucket"),
        ("AccessDenied", 403, "forbidden"),
        ("403", 403, "forbidden"),
        ("SomethingNew", 403, "forbidden"),
        ("InvalidAccessKeyId", 403, "credentials"),
        ("SignatureDoesNotMatch", 403, "credentials"),
        ("ExpiredToken", 400, "credentials"),
        ("RequestTimeTooSkewed", 403, "credentials"),
        ("PreconditionFailed", 412, "conflict"),
        ("412", 412, "conflict"),
        ("ConditionalRequestConflict", 409, "conflict"),
        ("NotImplemented", 501, "unsupported"),
        ("InvalidArgument", 400, "unsupported"),
        ("BadDigest", 400, "trouble"),
        ("InternalError", 500, "trouble"),
        ("SlowDown", 503, "trouble"),
        ("503", 503, "trouble"),
        ("EntityTooLarge", 400, "trouble"),
    ],
)
def test_a_response_is_classified_by_its_code_and_status(code: str, status: int, kind: str) -> None:
    fault = fault_of(client_error(code, status))
    assert fault.kind == kind
    assert code in fault.message


def test_an_empty_response_is_trouble() -> None:
    assert fault_of(ClientError({}, "Op")) == Fault("trouble", "the store answered : no reason given")


def test_the_message_for_missing_credentials_names_the_variable() -> None:
    fault = fault_of(botocore.exceptions.NoCredentialsError())
    assert fault.kind == "credentials"
    assert "AWS_ACCESS_KEY_ID" in fault.message
