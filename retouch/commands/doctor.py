"""`doctor`: checks each part of the stack, and suggests how to correct each fault. The API need not run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from retouch.commands.output import DONE, SOME_FAILED, out, plain, print_json
from retouch.commands.show_list import AsJson
from retouch.configuration import local_environment

if TYPE_CHECKING:
    from infra.doctor.checks import Finding

STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(doctor)


def doctor(as_json: AsJson = False) -> None:
    """Check Redis, bucket, broker, workers, models and clocks; exit status 1 if there is a fault.

    It reads the same environment variables as a worker, or the settings of a local stack.
    """
    if not os.environ.get("RETOUCH_REDIS_URL"):
        os.environ.update({name: value for name, value in local_environment().items() if name not in os.environ})
    from infra.doctor.report import examine  # noqa: PLC0415 - slow to import

    findings = examine()
    faulty = any(finding.level == "fault" for finding in findings)
    if as_json:
        print_json({"faulty": faulty, "data": [_document(finding) for finding in findings]})
        raise typer.Exit(SOME_FAILED if faulty else DONE)
    console = out()
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        level = Text(f"{finding.level:8}", style=STYLES[finding.level])
        console.print(Text.assemble(level, f"{finding.check:{width}}  {plain(finding.message)}"))
        if finding.advice:
            console.print(Text.assemble(" " * (10 + width), ("to do: ", "bold"), plain(finding.advice)))
    raise typer.Exit(SOME_FAILED if faulty else DONE)


def _document(finding: Finding) -> dict[str, str]:
    """A finding in the documented JSON, which calls its message `said`."""
    return {"check": finding.check, "level": finding.level, "said": finding.message, "advice": finding.advice}
