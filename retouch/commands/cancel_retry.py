"""`cancel`, `retry`: act on jobs and batches."""

from collections.abc import Callable
from typing import Annotated

import typer

from retouch.client import Client
from retouch.commands import batch_display
from retouch.commands.batches import is_batch
from retouch.commands.output import DONE, print_jobs, print_json, report_refusal
from retouch.commands.show_list import AsJson, Ids
from retouch.errors import ProblemError
from retouch.records import Batch, Job


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(cancel)
    app.command()(retry)


def cancel(ids: Ids, as_json: AsJson = False) -> None:
    """Cancel jobs and batches that have not ended."""
    with Client() as client:
        _act_on_each(ids, client.cancel, client.batches.cancel, as_json=as_json)


def retry(
    ids: Ids,
    state: Annotated[
        list[str] | None,
        typer.Option(help="Of a batch: retry jobs that are failed (default), filtered or canceled. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Queue failed, filtered or canceled jobs again; of a batch, its failed jobs."""
    with Client() as client:
        states = state or ["failed"]
        _act_on_each(ids, client.retry, lambda batch_id: client.batches.retry(batch_id, states), as_json=as_json)


def _act_on_each(
    ids: list[str], act_on_job: Callable[[str], Job], act_on_batch: Callable[[str], Batch], *, as_json: bool
) -> None:
    """Act on each id, print the new states and exit. A refusal of one id does not stop the others."""
    jobs: list[Job] = []
    batches: list[Batch] = []
    status = DONE
    for resource_id in dict.fromkeys(ids):
        try:
            if is_batch(resource_id):
                batches.append(act_on_batch(resource_id))
            else:
                jobs.append(act_on_job(resource_id))
        except ProblemError as problem:
            status = max(status, report_refusal(resource_id, problem, single=len(ids) == 1))
    if as_json:
        print_json({"data": [record.model_dump(mode="json") for record in (*jobs, *batches)]})
    else:
        if jobs or not batches:
            print_jobs(jobs, as_json=False)
        if batches:
            batch_display.print_batches(batches, as_json=False)
    raise typer.Exit(status)
