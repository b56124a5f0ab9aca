"""The command `retouch`."""

import os
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from retouch.commands import (
    admin,
    batches,
    cancel_retry,
    doctor,
    keys,
    processes,
    schedules,
    show_list,
    submitting,
    top,
    webhooks,
)
from retouch.commands.output import INTERRUPTED, exit_status, print_error
from retouch.errors import RetouchError


class Commands(TyperGroup):
    """The group of all commands. An error becomes one line on stderr and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader closed our stdout. Without this, the interpreter fails when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None
        except (typer.Exit, typer.Abort, TyperException):
            raise
        except Exception as error:
            if os.environ.get("RETOUCH_DEBUG"):
                raise
            print_error(_describe(error))
            raise typer.Exit(exit_status(error)) from error


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    if isinstance(error, RetouchError | OSError):
        return str(error)
    return f"internal error: {type(error).__name__}: {error} (run `retouch --debug …` to see the traceback)"


app = typer.Typer(
    cls=Commands,
    help="Edit images in bulk: rate-limited, stored in your bucket, reported by webhook, never lost or paid for twice.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"retouch {version('retouch')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or set RETOUCH_DEBUG=1).")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if debug:
        os.environ["RETOUCH_DEBUG"] = "1"


processes.register(app)
submitting.register(app)
show_list.register(app)
cancel_retry.register(app)
batches.register(app)
top.register(app)
doctor.register(app)
schedules.register(app)
app.add_typer(keys.app, name="keys")
app.add_typer(admin.models, name="models")
app.add_typer(admin.tenants, name="tenants")
app.add_typer(schedules.app, name="schedules")
app.add_typer(webhooks.app, name="webhooks")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
