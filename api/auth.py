"""Authentication by API key: `Authorization: Bearer KEY`."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.context import ApiKeysOf
from jobs.foundation.errors import Forbidden, Unauthorized
from jobs.tenants.api_keys import Caller

bearer = HTTPBearer(auto_error=False, description="An API key; `retouch keys create TENANT` prints it.")


def authenticate(
    request: Request, api_keys: ApiKeysOf, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """The caller that the API key belongs to. Its tenant is stored in the request's state for the access log.

    Raises:
        Unauthorized: the key is missing or unknown.
    """
    if credentials is None:
        raise Unauthorized("send an API key: Authorization: Bearer KEY")
    caller = api_keys.authenticate(credentials.credentials)
    request.state.tenant = caller.tenant
    return caller


CallerOf = Annotated[Caller, Depends(authenticate)]
"""The authenticated caller, as a route parameter."""


def operator(caller: CallerOf) -> Caller:
    """The caller, if its API key is an admin key.

    Raises:
        Forbidden: the key is not an admin key.
    """
    if not caller.admin:
        raise Forbidden("this needs an admin key: create one with `retouch keys create TENANT --admin`")
    return caller
