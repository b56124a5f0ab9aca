"""`models` and `tenants`: the operator's commands. All but `models list` need an admin key."""

from typing import Annotated, Any

import typer
from rich.table import Table

from retouch.client import Client
from retouch.commands.output import out, plain, print_json
from retouch.commands.show_list import AsJson
from retouch.records import Model

models = typer.Typer(help="List, park and resume models.", no_args_is_help=True)
tenants = typer.Typer(help="List tenants and set their quotas.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]
Quota = Annotated[int | None, typer.Option(min=0, help="0 removes the limit.")]


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List models with their limits, their queues, and the reason if a model is parked."""
    with Client() as client:
        _show_models(client.models(), as_json=as_json)


@models.command()
def park(
    name: Name,
    reason: Annotated[str, typer.Option(help="Shown to all users of the model.")] = "parked by an operator",
    as_json: AsJson = False,
) -> None:
    """Park a model: none of its jobs start until it is resumed."""
    with Client() as client:
        _show_models([client.park(name, reason)], as_json=as_json)


@models.command()
def resume(name: Name, as_json: AsJson = False) -> None:
    """Resume a parked model."""
    with Client() as client:
        _show_models([client.resume_model(name)], as_json=as_json)


@tenants.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List tenants with their quotas."""
    with Client() as client:
        _show_tenants(client.tenants(), as_json=as_json)


@tenants.command("set")
def set_tenant(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    max_queued: Quota = None,
    max_daily: Quota = None,
    max_in_flight: Quota = None,
    as_json: AsJson = False,
) -> None:
    """Set a tenant's quotas; the others stay unchanged."""
    changes = {"max_queued": max_queued, "max_daily": max_daily, "max_in_flight": max_in_flight}
    with Client() as client:
        current: dict[str, Any] = next((other["quotas"] for other in client.tenants() if other["name"] == tenant), {})
        quotas = {name: current.get(name) if value is None else value or None for name, value in changes.items()}
        _show_tenants([client.set_quotas(tenant, quotas)], as_json=as_json)


def _show_models(listed: list[Model], *, as_json: bool) -> None:
    if as_json:
        print_json({"data": [model.model_dump(mode="json") for model in listed]})
        return
    table = Table("model", "dialect", "in flight", "window", "pace per min", "queued", "waiting", "parked", box=None)
    for model in listed:
        pace = f"{model.pace_rpm:g}" if model.pace_rpm else "no limit"
        numbers = (model.in_flight, model.window, pace, model.queued, model.waiting)
        table.add_row(model.name, model.dialect, *map(str, numbers), plain(model.parked_reason or ""))
    out().print(table)


def _show_tenants(listed: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"data": listed})
        return
    table = Table("tenant", "max queued", "max per day", "max in flight", box=None)
    for tenant in listed:
        quotas = (tenant["quotas"].get(name) for name in ("max_queued", "max_daily", "max_in_flight"))
        table.add_row(tenant["name"], *("no limit" if quota is None else str(quota) for quota in quotas))
    out().print(table)
