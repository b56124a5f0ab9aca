"""`watch`, `show`, `list`: reading jobs."""

from typing import Annotated

import typer

from retouch.client import Client
from retouch.commands import batch_display
from retouch.commands.console import DONE, SOME_FAILED, print_job, print_jobs, wrong_usage
from retouch.commands.following import follow
from retouch.records import STATES, Job

Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of jobs, or of a batch.")]
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
    """Follow jobs, or a batch, until all have ended."""
    named = [one for one in ids if one.startswith("bat_")]
    if named and len(ids) > 1:
        wrong_usage("one batch at a time, and no jobs beside it")
    with Client() as client:
        if named:
            batch = batch_display.follow(client, named[0])
            batch_display.print_batch(batch, as_json=as_json)
            raise typer.Exit(batch_display.status_of(batch))
        ended = follow(client, {job_id: client.job(job_id) for job_id in dict.fromkeys(ids)}, {})
    jobs = list(ended.values())
    print_jobs(jobs, as_json=as_json)
    raise typer.Exit(status_of(jobs))


def show(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a job or a batch.")], as_json: AsJson = False
) -> None:
    """Show all about a job or a batch."""
    with Client() as client:
        if job_id.startswith("bat_"):
            batch_display.print_batch(client.batches.get(job_id), as_json=as_json)
            return
        print_job(client.job(job_id), as_json=as_json)


def list_jobs(
    *,
    state: Annotated[str | None, typer.Option(help=f"Only those {', '.join(STATES)}.")] = None,
    custom_id: Annotated[str | None, typer.Option(help="Only those of this name.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="BATCH", help="Only those of this batch.")] = None,
    batches: Annotated[bool, typer.Option("--batches", help="Batches instead of jobs.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, or batches, newest first."""
    if state is not None and state not in STATES:
        wrong_usage(f"--state is one of {', '.join(STATES)}, not {state!r}")
    if batches and (state or custom_id or batch):
        wrong_usage("--batches takes --limit alone")
    with Client() as client:
        if batches:
            batch_display.print_batches(client.batches.list(limit=limit), as_json=as_json)
            return
        found = list(client.jobs(state=state, batch_id=batch, custom_id=custom_id, limit=limit))
    print_jobs(found, as_json=as_json)
