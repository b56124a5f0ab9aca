"""`/v1/webhooks`, `/v1/deliveries`, `/v1/webhook-secret`: where events are delivered, and the deliveries' state."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.auth import CallerOf, authenticate
from api.context import DeliveryLoopOf, DeliveryReaderOf, EndpointsOf, TenantsOf
from api.http import schema
from api.http.responses import answer
from jobs.events.outbox import TYPES
from jobs.foundation.paging import Page
from jobs.webhooks.delivery_models import Delivery, DeliveryState
from jobs.webhooks.delivery_reader import DeliveryFilter
from jobs.webhooks.endpoint_models import Endpoint, EndpointChange, EndpointFields, NewEndpoint

router = APIRouter(
    prefix="/v1", tags=["webhooks"], dependencies=[Depends(authenticate)], responses=schema.problems(401, 503)
)

EndpointId = Annotated[str, Path(max_length=64, examples=["ep_01KD3V6E5Y2M8Q4T7W9Z0ABCDE"])]
DeliveryId = Annotated[str, Path(max_length=64, examples=["dlv_01KD3V6E5Y2M8Q4T7W9Z0ABCDE-0123456789"])]


class EndpointList(BaseModel):
    """All endpoints, newest first."""

    data: list[Endpoint]
    next_cursor: None = None


class DeliveryList(BaseModel):
    """A page of deliveries, those of the newest events first."""

    data: list[Delivery]
    next_cursor: str | None = Field(description="Send it as `cursor` to get the next page; null on the last page.")


class DeliveryDetail(Delivery):
    """A delivery with its payload."""

    payload: Any = Field(description="The request body, as JSON.")


class Pinged(BaseModel):
    """A queued `ping`."""

    event_id: str = Field(description="Its `webhook-id`.")
    delivery_id: str = Field(description="Read `/v1/deliveries/{id}` later for its result.")


class RecoverRequest(BaseModel):
    """Which deliveries to retry."""

    model_config = ConfigDict(extra="forbid")

    since: AwareDatetime = Field(description="Events at or after this time; RFC 3339, with a UTC offset.")
    states: list[DeliveryState] = Field(
        default=[DeliveryState.EXHAUSTED, DeliveryState.WAITING],
        description="Add `succeeded` if a receiver has lost events that it received.",
    )


class Recovered(BaseModel):
    """The number of deliveries that are retried."""

    count: int


class TenantSecret(BaseModel):
    """The secret that signs events to the `webhook_url` of jobs and batches."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])


class DeliveryQuery(BaseModel):
    """The query of a delivery list. Unknown parameters are refused, so that a typo does not list everything."""

    model_config = ConfigDict(extra="forbid")

    state: DeliveryState | None = None
    event_type: str | None = Field(default=None, max_length=64, description=f"One of {', '.join(TYPES)}.")
    subject: str | None = Field(default=None, max_length=64, description="Id of the job, batch, … of the event.")
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=256)

    def filter(self) -> DeliveryFilter:
        """The query as a filter for the reader."""
        return DeliveryFilter(self.state, self.event_type, self.subject, self.since, self.until)


@router.post(
    "/webhooks",
    status_code=201,
    response_model=NewEndpoint,
    summary="Create an endpoint",
    description="Only this response contains the secret.",
    responses=schema.problems(409, 422),
)
def create_endpoint(endpoints: EndpointsOf, caller: CallerOf, fields: Annotated[EndpointFields, Body()]) -> Response:
    """Create an endpoint for the caller."""
    endpoint = endpoints.create(caller.tenant, fields)
    return answer(endpoint, 201, {"Location": f"/v1/webhooks/{endpoint.id}"})


@router.get("/webhooks", response_model=EndpointList, summary="List endpoints")
def list_endpoints(endpoints: EndpointsOf, caller: CallerOf) -> Response:
    """All endpoints of the caller, newest first; header values are masked."""
    return answer(EndpointList(data=endpoints.all_of(caller.tenant)))


@router.get(
    "/webhooks/{endpoint_id}", response_model=Endpoint, summary="Read an endpoint", responses=schema.problems(404)
)
def read_endpoint(endpoints: EndpointsOf, caller: CallerOf, endpoint_id: EndpointId) -> Response:
    """The endpoint in its current state."""
    return answer(endpoints.get(caller.tenant, endpoint_id))


@router.patch(
    "/webhooks/{endpoint_id}",
    response_model=Endpoint,
    summary="Change an endpoint",
    description=(
        "Omitted fields and headers stay unchanged; null removes a header. Disabling an endpoint ends its waiting "
        "deliveries (`recover` retries them later); enabling it resets its failure count."
    ),
    responses=schema.problems(404, 422),
)
def change_endpoint(
    endpoints: EndpointsOf, caller: CallerOf, endpoint_id: EndpointId, change: Annotated[EndpointChange, Body()]
) -> Response:
    """Change the fields in the body."""
    return answer(endpoints.change(caller.tenant, endpoint_id, change))


@router.delete("/webhooks/{endpoint_id}", status_code=204, summary="Delete an endpoint", responses=schema.problems(404))
def delete_endpoint(endpoints: EndpointsOf, caller: CallerOf, endpoint_id: EndpointId) -> Response:
    """Delete the endpoint; its waiting deliveries become exhausted."""
    endpoints.delete(caller.tenant, endpoint_id)
    return Response(status_code=204)


@router.post(
    "/webhooks/{endpoint_id}/test",
    status_code=202,
    response_model=Pinged,
    summary="Send a ping",
    responses=schema.problems(404, 409),
)
def test_endpoint(endpoints: EndpointsOf, caller: CallerOf, endpoint_id: EndpointId) -> Response:
    """Send a `ping`; the endpoint's filters do not apply."""
    event_id, delivery_id = endpoints.ping(caller.tenant, endpoint_id)
    return answer(Pinged(event_id=event_id, delivery_id=delivery_id), 202)


@router.post(
    "/webhooks/{endpoint_id}/rotate-secret",
    response_model=NewEndpoint,
    summary="Replace the secret",
    description="Only this response contains the new secret. For 24 hours, both secrets sign each delivery.",
    responses=schema.problems(404),
)
def rotate_secret(endpoints: EndpointsOf, caller: CallerOf, endpoint_id: EndpointId) -> Response:
    """Create a new secret."""
    return answer(endpoints.rotate_secret(caller.tenant, endpoint_id))


@router.post(
    "/webhooks/{endpoint_id}/recover",
    status_code=202,
    response_model=Recovered,
    summary="Retry all deliveries since a time",
    responses=schema.problems(404, 409, 422),
)
def recover_endpoint(
    *,
    endpoints: EndpointsOf,
    delivery_loop: DeliveryLoopOf,
    caller: CallerOf,
    endpoint_id: EndpointId,
    selection: Annotated[RecoverRequest, Body()],
) -> Response:
    """Retry deliveries, by default those that did not succeed."""
    count = endpoints.recover(caller.tenant, endpoint_id, selection.since, selection.states)
    delivery_loop.dispatch()
    return answer(Recovered(count=count), 202)


@router.get(
    "/webhooks/{endpoint_id}/deliveries",
    response_model=DeliveryList,
    summary="List an endpoint's deliveries",
    responses=schema.problems(404, 422),
)
def list_endpoint_deliveries(
    endpoints: EndpointsOf,
    reader: DeliveryReaderOf,
    caller: CallerOf,
    endpoint_id: EndpointId,
    query: Annotated[DeliveryQuery, Query()],
) -> Response:
    """A page of the endpoint's deliveries with all their attempts."""
    endpoints.get(caller.tenant, endpoint_id)
    page = reader.page(caller.tenant, query.filter(), endpoint_id=endpoint_id, limit=query.limit, cursor=query.cursor)
    return _page(page)


@router.get(
    "/deliveries",
    response_model=DeliveryList,
    summary="List deliveries",
    description="To all endpoints, and to the `webhook_url` of jobs and batches.",
    responses=schema.problems(422),
)
def list_deliveries(reader: DeliveryReaderOf, caller: CallerOf, query: Annotated[DeliveryQuery, Query()]) -> Response:
    """A page of the caller's deliveries with all their attempts."""
    return _page(reader.page(caller.tenant, query.filter(), limit=query.limit, cursor=query.cursor))


@router.get(
    "/deliveries/{delivery_id}",
    response_model=DeliveryDetail,
    summary="Read a delivery",
    responses=schema.problems(404),
)
def read_delivery(reader: DeliveryReaderOf, caller: CallerOf, delivery_id: DeliveryId) -> Response:
    """The delivery with its attempts and its payload."""
    delivery = reader.get(caller.tenant, delivery_id)
    payload = reader.payload(caller.tenant, delivery_id)
    return answer(DeliveryDetail(**dict(delivery), payload=payload))


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    response_model=Delivery,
    summary="Retry a delivery",
    description="The attempt is due at once. An ended delivery restarts its retry schedule. The id stays the same.",
    responses=schema.problems(404, 409),
)
def redeliver(
    reader: DeliveryReaderOf,
    delivery_loop: DeliveryLoopOf,
    caller: CallerOf,
    delivery_id: DeliveryId,
) -> Response:
    """Retry the delivery now."""
    reader.get(caller.tenant, delivery_id)
    deliveries.redeliver(delivery_id)
    delivery_loop.dispatch()
    return answer(reader.get(caller.tenant, delivery_id), 202)


@router.get("/webhook-secret", response_model=TenantSecret, summary="Read the tenant's secret")
def read_secret(tenants: TenantsOf, caller: CallerOf) -> Response:
    """The secret that signs events to the `webhook_url` of jobs and batches."""
    return answer(TenantSecret(secret=tenants.webhook_secret(caller.tenant)))


@router.post(
    "/webhook-secret/rotate",
    response_model=TenantSecret,
    summary="Replace the tenant's secret",
    description="For 24 hours, both secrets sign each delivery.",
)
def rotate_tenant_secret(tenants: TenantsOf, caller: CallerOf) -> Response:
    """Create a new secret."""
    return answer(TenantSecret(secret=tenants.rotate_webhook_secret(caller.tenant)))


def _page(page: Page[Delivery]) -> Response:
    return answer(DeliveryList.model_construct(data=page.data, next_cursor=page.next_cursor))
