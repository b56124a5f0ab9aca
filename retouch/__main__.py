"""The command `retouch`."""

import os
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from retouch.commands import (
    acting,
    batches,
    doctor,
    keys,
    operating,
    reading,
    running,
    schedules,
    submitting,
    top,
    webhooks,
)
from retouch.commands.console import INTERRUPTED, complain, exit_status
from retouch.errors import RetouchError


class Commands(TyperGroup):
    """The group of all commands: what ends one is told in one line, and in its exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output has seen enough; the interpreter must not fail at its last flush.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None
        except (typer.Exit, typer.Abort, TyperException):
            raise
        except Exception as error:
            if os.environ.get("RETOUCH_DEBUG"):
                raise
            complain(_in_words(error))
            raise typer.Exit(exit_status(error)) from error


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    if isinstance(error, RetouchError | OSError):
        return str(error)
    return f"this should not happen: {type(error).__name__}: {error} (`retouch --debug …` shows where)"


app = typer.Typer(
    cls=Commands,
    help="Image edits in bulk: paced, stored, told by webhook, never lost and never bought twice.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"retouch {version('retouch')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on errors (RETOUCH_DEBUG=1).")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["RETOUCH_DEBUG"] = "1"


running.register(app)
submitting.register(app)
reading.register(app)
acting.register(app)
batches.register(app)
top.register(app)
doctor.register(app)
schedules.register(app)
app.add_typer(keys.app, name="keys")
app.add_typer(operating.models, name="models")
app.add_typer(operating.tenants, name="tenants")
app.add_typer(schedules.app, name="schedules")
app.add_typer(webhooks.app, name="webhooks")


def main() -> None:
    """Run the command that was typed."""
    app()


if __name__ == "__main__":
    main()
