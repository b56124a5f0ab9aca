"""`/v1/tenants`: tenants' quotas, for operators."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from api.auth import operator
from api.context import QuotasOf, TenantsOf
from api.http import schema
from jobs.foundation.redis_keys import TENANT_LABEL
from jobs.records.job_models import Record
from jobs.tenants.quotas import Quotas

router = APIRouter(
    prefix="/v1/tenants", tags=["tenants"], dependencies=[Depends(operator)], responses=schema.problems(401, 403, 503)
)


class Tenant(Record):
    """A tenant and its quotas; null means no limit."""

    name: str
    quotas: Quotas


class TenantList(Record):
    """All tenants."""

    data: list[Tenant]
    next_cursor: None = None


@router.get("", summary="List the tenants with their quotas")
def list_tenants(tenants: TenantsOf, tenant_quotas: QuotasOf) -> TenantList:
    """Admin keys only."""
    return TenantList(data=[Tenant(name=name, quotas=tenant_quotas.get(name)) for name in tenants.names()])


@router.get("/{name}", summary="Read a tenant's quotas", responses=schema.problems(404))
def read_tenant(name: str, tenant_quotas: QuotasOf) -> Tenant:
    """Admin keys only."""
    return Tenant(name=name, quotas=tenant_quotas.get(name))


@router.put("/{name}", summary="Replace a tenant's quotas", responses=schema.problems(422))
def set_tenant(name: Annotated[str, Path(pattern=TENANT_LABEL)], quotas: Quotas, tenant_quotas: QuotasOf) -> Tenant:
    """A submit over a quota gets a 429 with `Retry-After`. Queued and running jobs stay. Admin keys only."""
    tenant_quotas.set(name, quotas)
    return Tenant(name=name, quotas=tenant_quotas.get(name))
