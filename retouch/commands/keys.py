"""`keys`: API keys. They are made beside Redis, not through the API: the first one has no key to ask with."""

import os
from typing import Annotated

import typer

from retouch.commands.console import UNREACHABLE, complain, err, out, print_json
from retouch.commands.reading import AsJson
from retouch.configuration import LOCAL_ENV, local_environment

app = typer.Typer(help="Make API keys.", no_args_is_help=True)


@app.callback()
def keys() -> None:
    """Make API keys."""


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whom the key belongs to.")],
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="May act for the operator.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it: this once, for only its hash is kept. Needs RETOUCH_REDIS_URL."""
    if not os.environ.get("RETOUCH_REDIS_URL"):
        local = local_environment()
        if not local.get("RETOUCH_REDIS_URL"):
            complain(f"no Redis is named: set RETOUCH_REDIS_URL, or run beside a {LOCAL_ENV} (`retouch up` writes one)")
            raise typer.Exit(UNREACHABLE)
        os.environ.update({key: value for key, value in local.items() if key not in os.environ})
    from infra import operator  # noqa: PLC0415
    from infra.processes import CannotStart, clear_errors  # noqa: PLC0415

    try:
        with clear_errors():
            key = operator.create_key(tenant, name=name, admin=admin)
    except CannotStart as error:
        complain(error)
        raise typer.Exit(error.status) from error
    if as_json:
        print_json({"tenant": tenant, "name": name, "admin": admin, "key": key})
        return
    out().print(key, markup=False)
    err().print("Keep it now: it is shown only this once.")
