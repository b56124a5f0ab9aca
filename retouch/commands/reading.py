"""`watch`, `show`, `list`: reading jobs."""

from typing import Annotated

import typer

from retouch.client import Client
from retouch.commands.console import DONE, SOME_FAILED, print_job, print_jobs, wrong_usage
from retouch.commands.following import follow
from retouch.records import STATES, Job

Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of jobs.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(watch)
    app.command()(show)
    app.command("list")(list_jobs)


def status_of(jobs: list[Job]) -> int:
    """0 if all have their results, else 1."""
    return DONE if all(job.state == "succeeded" for job in jobs) else SOME_FAILED


def watch(ids: Ids, as_json: AsJson = False) -> None:
    """Follow jobs until all have ended."""
    with Client() as client:
        ended = follow(client, {job_id: client.job(job_id) for job_id in dict.fromkeys(ids)}, {})
    jobs = list(ended.values())
    print_jobs(jobs, as_json=as_json)
    raise typer.Exit(status_of(jobs))


def show(job_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a job.")], as_json: AsJson = False) -> None:
    """Show all about a job."""
    with Client() as client:
        print_job(client.job(job_id), as_json=as_json)


def list_jobs(
    state: Annotated[str | None, typer.Option(help=f"Only those {', '.join(STATES)}.")] = None,
    custom_id: Annotated[str | None, typer.Option(help="Only those of this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    if state is not None and state not in STATES:
        wrong_usage(f"--state is one of {', '.join(STATES)}, not {state!r}")
    with Client() as client:
        found = list(client.jobs(state=state, custom_id=custom_id, limit=limit))
    print_jobs(found, as_json=as_json)
