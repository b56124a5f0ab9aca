"""`keys`: API keys. They are managed beside Redis, not through the API: the first one has no key to ask with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Annotated

import typer
from rich.table import Table

from retouch.commands.console import UNREACHABLE, err, out, plain, print_error, print_json
from retouch.commands.reading import AsJson
from retouch.configuration import LOCAL_ENV, local_environment

app = typer.Typer(help="Manage API keys.", no_args_is_help=True)
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Whom the key belongs to.")]


@app.callback()
def keys() -> None:
    """Manage API keys. Needs RETOUCH_REDIS_URL."""


@app.command()
def create(
    tenant: Tenant,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="May act for the operator.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it: this once, for only its hash is kept."""
    with _operator() as operator:
        key = operator.create_key(tenant, name=name, admin=admin)
    if as_json:
        print_json({"tenant": tenant, "name": name, "admin": admin, "key": key})
        return
    out().print(key, markup=False)
    err().print("Keep it now: it is shown only this once.")


@app.command("list")
def list_(tenant: Tenant, as_json: AsJson = False) -> None:
    """The keys of a tenant, by their ids: the keys themselves are not kept."""
    with _operator() as operator:
        found = operator.list_keys(tenant)
    if as_json:
        print_json({"data": found, "next_cursor": None})
        return
    table = Table("id", "made at", "admin", "for", box=None)
    for key in found:
        table.add_row(key["id"], key["created_at"][:19], "yes" if key["admin"] else "", plain(key["name"]))
    out().print(table)


@app.command()
def revoke(
    tenant: Tenant, key_id: Annotated[str, typer.Argument(metavar="ID", help="Of the key, as `keys list` shows it.")]
) -> None:
    """End a key: it is refused from now on. What it has submitted goes on."""
    with _operator() as operator:
        operator.revoke_key(tenant, key_id)
    err().print(f"The key {key_id} of {tenant} is refused from now on.")


@contextmanager
def _operator() -> Iterator[ModuleType]:
    """What acts on the Redis that is named; errors end the command with one line."""
    if not os.environ.get("RETOUCH_REDIS_URL"):
        local = local_environment()
        if not local.get("RETOUCH_REDIS_URL"):
            print_error(
                f"no Redis is named: set RETOUCH_REDIS_URL, or run beside a {LOCAL_ENV} (`retouch up` writes one)"
            )
            raise typer.Exit(UNREACHABLE)
        os.environ.update({key: value for key, value in local.items() if key not in os.environ})
    from infra import operator  # noqa: PLC0415
    from infra.processes import CannotStart, clear_errors  # noqa: PLC0415

    try:
        with clear_errors():
            yield operator
    except CannotStart as error:
        print_error(error)
        raise typer.Exit(error.status) from error
