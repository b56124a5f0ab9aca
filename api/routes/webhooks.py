"""`/v1/webhooks`, `/v1/deliveries`, `/v1/webhook-secret`: where events are told, and what came of it."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.auth import CallerOf, authenticate
from api.context import BrokerOf, DeliveriesOf, DeliveryReaderOf, EndpointsOf, TenantsOf
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
    """A delivery and what it sends."""

    payload: Any = Field(description="The body, as JSON.")


class Pinged(BaseModel):
    """A `ping` is on its way."""

    event_id: str = Field(description="Its `webhook-id`.")
    delivery_id: str = Field(description="Read `/v1/deliveries/{id}` in a moment to see what came of it.")


class RecoverRequest(BaseModel):
    """What shall be tried again."""

    model_config = ConfigDict(extra="forbid")

    since: AwareDatetime = Field(description="Events of this moment and later; RFC 3339, with its offset.")
    states: list[DeliveryState] = Field(
        default=[DeliveryState.EXHAUSTED, DeliveryState.WAITING],
        description="`succeeded` too, where a receiver has lost what it had.",
    )


class Recovered(BaseModel):
    """How many deliveries are tried again now."""

    count: int


class TenantSecret(BaseModel):
    """What signs the events that jobs and batches send to their own `webhook_url`."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])


class DeliveryQuery(BaseModel):
    """The query of a list; a parameter it does not know is refused, so that a typo does not list everything."""

    model_config = ConfigDict(extra="forbid")

    state: DeliveryState | None = None
    event_type: str | None = Field(default=None, max_length=64, description=f"One of {', '.join(TYPES)}.")
    subject: str | None = Field(default=None, max_length=64, description="Id of the job, batch, … it is about.")
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    limit: int = Field(default=50, ge=1, le=200)
    cursor: str | None = Field(default=None, max_length=256)

    def filter(self) -> DeliveryFilter:
        """What the list is asked for."""
        return DeliveryFilter(self.state, self.event_type, self.subject, self.since, self.until)


@router.post(
    "/webhooks",
    status_code=201,
    response_model=NewEndpoint,
    summary="Make an endpoint",
    description="The secret is shown this once.",
    responses=schema.problems(409, 422),
)
def create_endpoint(endpoints: EndpointsOf, caller: CallerOf, wanted: Annotated[EndpointFields, Body()]) -> Response:
    """Make an endpoint of the caller's."""
    made = endpoints.create(caller.tenant, wanted)
    return answer(made, 201, {"Location": f"/v1/webhooks/{made.id}"})


@router.get("/webhooks", response_model=EndpointList, summary="List endpoints")
def list_endpoints(endpoints: EndpointsOf, caller: CallerOf) -> Response:
    """All of the caller's, newest first; values of headers are masked."""
    return answer(EndpointList(data=endpoints.all_of(caller.tenant)))


@router.get(
    "/webhooks/{endpoint_id}", response_model=Endpoint, summary="Read an endpoint", responses=schema.problems(404)
)
def read_endpoint(endpoints: EndpointsOf, caller: CallerOf, endpoint_id: EndpointId) -> Response:
    """The endpoint as it is now."""
    return answer(endpoints.get(caller.tenant, endpoint_id))


@router.patch(
    "/webhooks/{endpoint_id}",
    response_model=Endpoint,
    summary="Change an endpoint",
    description=(
        "What is left out stays. A header that is null goes, the others stay. Disabling ends what waits (`recover` "
        "sends it later); enabling forgives failures."
    ),
    responses=schema.problems(404, 422),
)
def change_endpoint(
    endpoints: EndpointsOf, caller: CallerOf, endpoint_id: EndpointId, wanted: Annotated[EndpointChange, Body()]
) -> Response:
    """Change what is given."""
    return answer(endpoints.change(caller.tenant, endpoint_id, wanted))


@router.delete("/webhooks/{endpoint_id}", status_code=204, summary="Delete an endpoint", responses=schema.problems(404))
def delete_endpoint(endpoints: EndpointsOf, caller: CallerOf, endpoint_id: EndpointId) -> Response:
    """Delete it; what waits for it is exhausted."""
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
    """Send a `ping`, whatever the endpoint's filters."""
    event_id, delivery_id = endpoints.ping(caller.tenant, endpoint_id)
    return answer(Pinged(event_id=event_id, delivery_id=delivery_id), 202)


@router.post(
    "/webhooks/{endpoint_id}/rotate-secret",
    response_model=NewEndpoint,
    summary="Replace the secret",
    description="The new secret is shown this once; for 24 hours the old one signs beside it.",
    responses=schema.problems(404),
)
def rotate_secret(endpoints: EndpointsOf, caller: CallerOf, endpoint_id: EndpointId) -> Response:
    """A new secret."""
    return answer(endpoints.rotate_secret(caller.tenant, endpoint_id))


@router.post(
    "/webhooks/{endpoint_id}/recover",
    status_code=202,
    response_model=Recovered,
    summary="Try again all deliveries since a time",
    responses=schema.problems(404, 409, 422),
)
def recover_endpoint(
    *,
    endpoints: EndpointsOf,
    deliveries: DeliveriesOf,
    broker: BrokerOf,
    caller: CallerOf,
    endpoint_id: EndpointId,
    wanted: Annotated[RecoverRequest, Body()],
) -> Response:
    """Try again what has not arrived."""
    count = endpoints.recover(caller.tenant, endpoint_id, wanted.since, wanted.states)
    deliveries.dispatch(broker)
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
    wanted: Annotated[DeliveryQuery, Query()],
) -> Response:
    """A page of one endpoint's deliveries with all their tries."""
    endpoints.get(caller.tenant, endpoint_id)
    page = reader.page(
        caller.tenant, wanted.filter(), endpoint_id=endpoint_id, limit=wanted.limit, cursor=wanted.cursor
    )
    return _page(page)


@router.get(
    "/deliveries",
    response_model=DeliveryList,
    summary="List deliveries",
    description="To all endpoints, and to what jobs and batches named as `webhook_url`.",
    responses=schema.problems(422),
)
def list_deliveries(reader: DeliveryReaderOf, caller: CallerOf, wanted: Annotated[DeliveryQuery, Query()]) -> Response:
    """A page of the caller's deliveries with all their tries."""
    return _page(reader.page(caller.tenant, wanted.filter(), limit=wanted.limit, cursor=wanted.cursor))


@router.get(
    "/deliveries/{delivery_id}",
    response_model=DeliveryDetail,
    summary="Read a delivery",
    responses=schema.problems(404),
)
def read_delivery(reader: DeliveryReaderOf, caller: CallerOf, delivery_id: DeliveryId) -> Response:
    """The delivery, its tries and what it sends."""
    delivery = reader.get(caller.tenant, delivery_id)
    payload = reader.payload(caller.tenant, delivery_id)
    return answer(DeliveryDetail(**dict(delivery), payload=payload))


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    response_model=Delivery,
    summary="Try a delivery again",
    description="Now: an ended one begins its schedule anew, a waiting one is brought forward. The id stays the same.",
    responses=schema.problems(404, 409),
)
def redeliver(
    reader: DeliveryReaderOf, deliveries: DeliveriesOf, broker: BrokerOf, caller: CallerOf, delivery_id: DeliveryId
) -> Response:
    """Try it now."""
    reader.get(caller.tenant, delivery_id)
    deliveries.redeliver(delivery_id)
    deliveries.dispatch(broker)
    return answer(reader.get(caller.tenant, delivery_id), 202)


@router.get("/webhook-secret", response_model=TenantSecret, summary="Read the tenant's secret")
def read_secret(tenants: TenantsOf, caller: CallerOf) -> Response:
    """What signs the events sent to the `webhook_url` of a job or batch."""
    return answer(TenantSecret(secret=tenants.webhook_secret(caller.tenant)))


@router.post(
    "/webhook-secret/rotate",
    response_model=TenantSecret,
    summary="Replace the tenant's secret",
    description="For 24 hours the old one signs beside the new one.",
)
def rotate_tenant_secret(tenants: TenantsOf, caller: CallerOf) -> Response:
    """A new secret."""
    return answer(TenantSecret(secret=tenants.rotate_webhook_secret(caller.tenant)))


def _page(page: Page[Delivery]) -> Response:
    return answer(DeliveryList.model_construct(data=page.data, next_cursor=page.next_cursor))
