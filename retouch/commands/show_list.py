"""`watch`, `show`, `list`: read jobs and batches."""

from typing import Annotated

import typer

from retouch.client import Client
from retouch.commands import batch_display
from retouch.commands.output import DONE, SOME_FAILED, print_job, print_jobs, wrong_usage
from retouch.commands.watch import follow
from retouch.records import STATES, Job

Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of jobs (job_…) or batches (bat_…).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(watch)
    app.command()(show)
    app.command("list")(list_jobs)


def status_of(jobs: list[Job]) -> int:
    """The exit status: 0 if all jobs succeeded, else 1."""
    return DONE if all(job.state == "succeeded" for job in jobs) else SOME_FAILED


def watch(ids: Ids, as_json: AsJson = False) -> None:
    """Follow jobs or one batch until all have ended."""
    batch_ids = [resource_id for resource_id in ids if resource_id.startswith("bat_")]
    if batch_ids and len(ids) > 1:
        wrong_usage("watch a batch alone, without other batches or jobs")
    with Client() as client:
        if batch_ids:
            batch = batch_display.follow(client, batch_ids[0])
            batch_display.print_batch(batch, as_json=as_json)
            raise typer.Exit(batch_display.status_of(batch))
        ended = follow(client, {job_id: client.job(job_id) for job_id in dict.fromkeys(ids)}, {})
    jobs = list(ended.values())
    print_jobs(jobs, as_json=as_json)
    raise typer.Exit(status_of(jobs))


def show(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a job or a batch.")], as_json: AsJson = False
) -> None:
    """Show all fields of a job or a batch."""
    with Client() as client:
        if job_id.startswith("bat_"):
            batch_display.print_batch(client.batches.get(job_id), as_json=as_json)
            return
        print_job(client.job(job_id), as_json=as_json)


def list_jobs(
    *,
    state: Annotated[str | None, typer.Option(help=f"Only jobs in this state: {', '.join(STATES)}.")] = None,
    custom_id: Annotated[str | None, typer.Option(help="Only jobs with this custom_id.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="BATCH", help="Only jobs of this batch.")] = None,
    batches: Annotated[bool, typer.Option("--batches", help="List batches instead of jobs.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of entries.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, or batches, newest first."""
    if state is not None and state not in STATES:
        wrong_usage(f"--state must be one of {', '.join(STATES)}, not {state!r}")
    if batches and (state or custom_id or batch):
        wrong_usage("--batches can only be combined with --limit")
    with Client() as client:
        if batches:
            batch_display.print_batches(client.batches.list(limit=limit), as_json=as_json)
            return
        jobs = list(client.jobs(state=state, batch_id=batch, custom_id=custom_id, limit=limit))
    print_jobs(jobs, as_json=as_json)
