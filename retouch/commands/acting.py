"""`cancel`, `retry`: acting on jobs."""

from collections.abc import Callable

import typer

from retouch.client import Client
from retouch.commands.console import DONE, WRONG_USAGE, complain, exit_status, print_jobs
from retouch.commands.reading import AsJson, Ids
from retouch.errors import ProblemError
from retouch.records import Job


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(cancel)
    app.command()(retry)


def cancel(ids: Ids, as_json: AsJson = False) -> None:
    """Stop jobs that have not ended."""
    with Client() as client:
        _each(ids, client.cancel, as_json=as_json)


def retry(ids: Ids, as_json: AsJson = False) -> None:
    """Queue jobs again that failed, were filtered or canceled."""
    with Client() as client:
        _each(ids, client.retry, as_json=as_json)


def _each(ids: list[str], act: Callable[[str], Job], *, as_json: bool) -> None:
    """Act on each; one that refuses does not keep the others from it."""
    done, worst = [], DONE
    for job_id in dict.fromkeys(ids):
        try:
            done.append(act(job_id))
        except ProblemError as problem:
            if problem.status not in {404, 409}:
                raise
            complain(f"{job_id}: {problem}")
            worst = max(worst, min(exit_status(problem), WRONG_USAGE if len(ids) == 1 else 1))
    print_jobs(done, as_json=as_json)
    raise typer.Exit(worst)
