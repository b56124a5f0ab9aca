"""Output of the commands: results on stdout, progress and errors on stderr, one line per error."""

import json
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from retouch import records
from retouch.errors import NotConfigured, ProblemError, Unreachable

DONE = 0
SOME_FAILED = 1
WRONG_USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130

STYLES: dict[str, str] = {
    "queued": "cyan",
    "waiting": "yellow",
    "running": "blue",
    "succeeded": "green",
    "filtered": "magenta",
    "failed": "red",
    "canceled": "bright_black",
}

_PARAMETERS = ("prompt", "negative_prompt", "seed", "steps", "cfg_scale", "text_mode", "size")
_NAMES = ("custom_id", "batch_id", "priority")


def out() -> Console:
    """The console for results. Created at each call, because a test or a caller can redirect stdout."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


def err() -> Console:
    """The console for progress and errors."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def plain(text: object) -> str:
    """`text` on one line, without control characters that could manipulate a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text).replace("\n", " "))


def styled(state: str) -> Text:
    """A job's state in its color."""
    return Text(plain(state), style=STYLES.get(state, ""))


def print_error(message: object) -> None:
    """Print one line on stderr."""
    err().print(Text.assemble(("error: ", "bold red"), plain(message)))


def wrong_usage(message: str) -> NoReturn:
    """Print the fault of the command line, and exit with status 2."""
    print_error(message)
    raise typer.Exit(WRONG_USAGE)


def exit_status(error: Exception) -> int:
    """The exit status of the command after this error."""
    if isinstance(error, NotConfigured | Unreachable):
        return UNREACHABLE
    if isinstance(error, ProblemError):
        if error.status in {401, 403, 429} or error.status >= 500:
            return UNREACHABLE
        return SOME_FAILED if error.status == 409 else WRONG_USAGE
    return WRONG_USAGE if isinstance(error, OSError) else SOME_FAILED


def report_refusal(resource_id: str, problem: ProblemError, *, single: bool = False) -> int:
    """Print that the service refused to act on one of several ids, so that the others can follow.

    Args:
        resource_id: the id.
        problem: the refusal.
        single: whether the command has only this id.

    Returns:
        The exit status of the command.

    Raises:
        ProblemError: the refusal is not about this id alone.
    """
    if problem.status not in {404, 409}:
        raise problem
    print_error(f"{resource_id}: {problem}")
    return exit_status(problem) if single else SOME_FAILED


def print_json(value: object) -> None:
    """Print JSON for programs on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_jobs(jobs: Iterable[records.Job], *, as_json: bool) -> None:
    """Print jobs: as JSON, as a table on a terminal, or as tab-separated lines."""
    if as_json:
        print_json({"data": [job.model_dump(mode="json") for job in jobs]})
        return
    rows = [_row(job) for job in jobs]
    console = out()
    if not console.is_terminal:
        # rich would replace the tabs with spaces.
        sys.stdout.writelines("\t".join(row) + "\n" for row in rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("job", "state", "name", "model", "submitted", "attempts", "cost"):
        table.add_column(heading, no_wrap=heading in {"job", "state"}, justify="right" if heading == "cost" else "left")
    for job_id, state, *rest in rows:
        table.add_row(job_id, styled(state), *(Text(cell) for cell in rest))
    console.print(table)


def _row(job: records.Job) -> list[str]:
    return [
        job.id,
        job.state,
        plain(job.custom_id or ""),
        plain(job.model),
        job.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        str(len(job.attempts)),
        f"${job.cost_usd:.4f}",
    ]


def print_job(job: records.Job, *, as_json: bool) -> None:
    """Print all fields of a job."""
    if as_json:
        print_json(job.model_dump(mode="json"))
        return
    console = out()
    if not console.is_terminal:
        sys.stdout.writelines(f"{name:15} {plain(value)}\n" for name, value in _facts(job))
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in _facts(job):
        grid.add_row(name, styled(value) if name == "state" else Text(plain(value)))
    console.print(grid, soft_wrap=False)


def _facts(job: records.Job) -> list[tuple[str, str]]:
    facts: list[tuple[str, Any]] = [("job", job.id), ("state", job.state), ("model", job.model)]
    facts += [(name, getattr(job, name)) for name in _PARAMETERS + _NAMES]
    facts += [(f"metadata.{name}", value) for name, value in job.metadata.items()]
    facts += [("input", _describe_image(job.input.image, job.input))]
    if job.output:
        facts += [("output", _describe_image(f"s3://{job.output.bucket}/{job.output.key}", job.output))]
        facts += [("url", job.output.url)]
    if job.error:
        advice = "a retry can help" if job.error.retryable else "a retry will not help"
        facts += [("error", f"{job.error.code}: {job.error.message} ({advice})"), ("trace", job.error.trace_id)]
    for name in ("created_at", "not_before", "started_at", "finished_at"):
        timestamp = getattr(job, name)
        facts += [(name.replace("_", " "), timestamp.astimezone().isoformat(" ", "seconds") if timestamp else None)]
    for attempt in job.attempts:
        facts += [(f"attempt {attempt.number}", ": ".join(filter(None, (attempt.outcome, attempt.message))))]
    facts += [("cost", f"${job.cost_usd:.4f}")]
    return [(name, str(value)) for name, value in facts if value is not None]


def _describe_image(url: str, image: records.Input | records.Output) -> str:
    properties = [image.media_type, f"{image.width}x{image.height}" if image.width else None]
    properties += [f"{image.bytes:,} bytes" if image.bytes else None]
    known = ", ".join(filter(None, properties))
    return f"{url[:200]} ({known})" if known else url[:200]
