"""`cancel`, `retry`: acting on jobs and batches."""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from retouch.client import Client
from retouch.commands import batch_display, batches
from retouch.commands.console import DONE, WRONG_USAGE, complain, exit_status, print_jobs, print_json
from retouch.commands.reading import AsJson, Ids
from retouch.errors import ProblemError
from retouch.records import Batch, Job


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(cancel)
    app.command()(retry)


def cancel(ids: Ids, as_json: AsJson = False) -> None:
    """Stop jobs and batches that have not ended."""
    with Client() as client:
        _each(client, ids, "cancel", client.cancel, as_json=as_json)


def retry(
    ids: Ids,
    state: Annotated[
        list[str] | None, typer.Option(help="Of a batch: failed (the default), filtered, canceled; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Queue jobs again that failed, were filtered or canceled; of a batch, all that failed."""
    with Client() as client:
        _each(client, ids, "retry", client.retry, states=state or ["failed"], as_json=as_json)


def _each(
    client: Client,
    ids: list[str],
    action: str,
    act: Callable[[str], Job],
    *,
    as_json: bool,
    states: Sequence[str] = (),
) -> None:
    """Act on each; one that refuses does not keep the others from it."""
    done: list[Job] = []
    acted: list[Batch] = []
    worst = DONE
    for job_id in dict.fromkeys(ids):
        if batches.is_batch(job_id):
            batch, status = batches.act(client, job_id, action, states)
            acted += [batch] if batch else []
            worst = max(worst, min(status, WRONG_USAGE if len(ids) == 1 else 1))
            continue
        try:
            done.append(act(job_id))
        except ProblemError as problem:
            if problem.status not in {404, 409}:
                raise
            complain(f"{job_id}: {problem}")
            worst = max(worst, min(exit_status(problem), WRONG_USAGE if len(ids) == 1 else 1))
    if acted and not done:
        batch_display.print_batches(acted, as_json=as_json)
    elif as_json:
        print_json({"data": [one.model_dump(mode="json") for one in (*done, *acted)]})
    else:
        print_jobs(done, as_json=False)
        if acted:
            batch_display.print_batches(acted, as_json=False)
    raise typer.Exit(worst)
