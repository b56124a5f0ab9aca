"""Who is calling: `Authorization: Bearer KEY`."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.context import TenantsOf
from jobs.foundation.errors import Forbidden, Unauthorized
from jobs.tenants.tenants import Caller

bearer = HTTPBearer(auto_error=False, description="An API key, as `retouch keys create TENANT` prints it.")


def authenticate(
    request: Request, tenants: TenantsOf, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """The caller whose key it is; its tenant is left in the request's state, for the log.

    Raises:
        Unauthorized: no key, or one that is not known.
    """
    if credentials is None:
        raise Unauthorized("send an API key: Authorization: Bearer KEY")
    caller = tenants.authenticate(credentials.credentials)
    request.state.tenant = caller.tenant
    return caller


CallerOf = Annotated[Caller, Depends(authenticate)]
"""The caller, for a route's parameters."""


def operator(caller: CallerOf) -> Caller:
    """The caller, where the key may act for the operator.

    Raises:
        Forbidden: it may not.
    """
    if not caller.admin:
        raise Forbidden("this needs an admin key: `retouch keys create TENANT --admin` makes one")
    return caller
