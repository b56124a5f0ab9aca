"""What routes share: the domain, and the notices of finished jobs. Kept on the app, never at module level."""

from typing import Annotated, cast

from fastapi import Depends, Request

from api.waiting import Waiting
from jobs.wiring import Domain


def _domain(request: Request) -> Domain:
    return cast(Domain, request.app.state.domain)


def _waiting(request: Request) -> Waiting:
    return cast(Waiting, request.app.state.waiting)


DomainOf = Annotated[Domain, Depends(_domain)]
"""The domain the app was made over."""
WaitingOf = Annotated[Waiting, Depends(_waiting)]
"""The app's one subscription to notices."""
