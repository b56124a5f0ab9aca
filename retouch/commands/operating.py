"""`models` and `tenants`: what an operator sees and sets. All but the list of models needs an admin key."""

from typing import Annotated, Any

import typer
from rich.table import Table

from retouch.client import Client
from retouch.commands.console import out, plain, print_json
from retouch.commands.reading import AsJson
from retouch.records import Model

models = typer.Typer(help="See models; park and resume them.", no_args_is_help=True)
tenants = typer.Typer(help="See and set what tenants may have.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]
Quota = Annotated[int | None, typer.Option(min=0, help="0 takes the limit away.")]


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Each model with its window, pace, and why it is parked if it is."""
    with Client() as client:
        _show_models(client.models(), as_json=as_json)


@models.command()
def park(
    name: Name,
    reason: Annotated[str, typer.Option(help="Shown wherever the park is.")] = "parked by an operator",
    as_json: AsJson = False,
) -> None:
    """Set a model aside: nothing of it starts until it is resumed."""
    with Client() as client:
        _show_models([client.park(name, reason)], as_json=as_json)


@models.command()
def resume(name: Name, as_json: AsJson = False) -> None:
    """Take a model up again, whatever it was parked for."""
    with Client() as client:
        _show_models([client.resume_model(name)], as_json=as_json)


@tenants.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """Every tenant with its quotas."""
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
    """Set quotas of a tenant; those that are not named stay as they are."""
    named = {"max_queued": max_queued, "max_daily": max_daily, "max_in_flight": max_in_flight}
    with Client() as client:
        before: dict[str, Any] = next((known["quotas"] for known in client.tenants() if known["name"] == tenant), {})
        wanted = {name: before.get(name) if value is None else value or None for name, value in named.items()}
        _show_tenants([client.set_quotas(tenant, wanted)], as_json=as_json)


def _show_models(found: list[Model], *, as_json: bool) -> None:
    if as_json:
        print_json({"data": [model.model_dump(mode="json") for model in found]})
        return
    table = Table("model", "dialect", "in flight", "window", "pace a minute", "queued", "waiting", "parked", box=None)
    for model in found:
        pace = f"{model.pace_rpm:g}" if model.pace_rpm else "no limit"
        numbers = (model.in_flight, model.window, pace, model.queued, model.waiting)
        table.add_row(model.name, model.dialect, *map(str, numbers), plain(model.parked_reason or ""))
    out().print(table)


def _show_tenants(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"data": found})
        return
    table = Table("tenant", "queued at most", "a day at most", "in flight at most", box=None)
    for tenant in found:
        quotas = (tenant["quotas"].get(name) for name in ("max_queued", "max_daily", "max_in_flight"))
        table.add_row(tenant["name"], *("no limit" if quota is None else str(quota) for quota in quotas))
    out().print(table)
