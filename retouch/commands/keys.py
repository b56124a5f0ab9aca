"""`keys`: API keys. The command uses Redis directly, because the first key cannot be created through the API."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Annotated

import typer
from rich.table import Table

from retouch.commands.output import UNREACHABLE, err, out, plain, print_error, print_json
from retouch.commands.show_list import AsJson
from retouch.configuration import LOCAL_ENV, local_environment

app = typer.Typer(help="Manage API keys.", no_args_is_help=True)
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant that owns the key.")]


@app.callback()
def keys() -> None:
    """Manage API keys. Needs RETOUCH_REDIS_URL or a local stack."""


@app.command()
def create(
    tenant: Tenant,
    name: Annotated[str, typer.Option(help="The purpose of the key.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="Also allow the operator's requests.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it once; only its hash is stored."""
    with _operator() as operator:
        key = operator.create_key(tenant, name=name, admin=admin)
    if as_json:
        print_json({"tenant": tenant, "name": name, "admin": admin, "key": key})
        return
    out().print(key, markup=False)
    err().print("Store the key now: it cannot be shown again.")


@app.command("list")
def list_(tenant: Tenant, as_json: AsJson = False) -> None:
    """List a tenant's keys by their ids; the keys themselves are not stored."""
    with _operator() as operator:
        tenant_keys = operator.list_keys(tenant)
    if as_json:
        print_json({"data": tenant_keys, "next_cursor": None})
        return
    table = Table("id", "created at", "admin", "name", box=None)
    for key in tenant_keys:
        table.add_row(key["id"], key["created_at"][:19], "yes" if key["admin"] else "", plain(key["name"]))
    out().print(table)


@app.command()
def revoke(
    tenant: Tenant, key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id in `keys list`.")]
) -> None:
    """Revoke a key: it is refused from now on. Its submitted jobs continue."""
    with _operator() as operator:
        operator.revoke_key(tenant, key_id)
    err().print(f"The key {key_id} of {tenant} is revoked.")


@contextmanager
def _operator() -> Iterator[ModuleType]:
    """The module that manages keys in the configured Redis. An error is printed and ends the command."""
    if not os.environ.get("RETOUCH_REDIS_URL"):
        local = local_environment()
        if not local.get("RETOUCH_REDIS_URL"):
            print_error(
                "no Redis is configured: set RETOUCH_REDIS_URL, "
                f"or run this in the directory of a local stack (`retouch up` writes {LOCAL_ENV})"
            )
            raise typer.Exit(UNREACHABLE)
        os.environ.update({key: value for key, value in local.items() if key not in os.environ})
    from infra.local import admin as operator  # noqa: PLC0415
    from infra.local.processes import CannotStart, clear_errors  # noqa: PLC0415

    try:
        with clear_errors():
            yield operator
    except CannotStart as error:
        print_error(error)
        raise typer.Exit(error.status) from error
