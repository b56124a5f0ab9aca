"""Print batches: as a table, in full, or as a progress bar."""

from collections.abc import Iterable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from retouch.client import Client
from retouch.commands.output import DONE, SOME_FAILED, err, out, plain, print_json
from retouch.commands.watch import failures_text
from retouch.records import Batch

STYLES = {
    "ingesting": "cyan",
    "running": "blue",
    "awaiting_approval": "yellow",
    "paused": "yellow",
    "completed": "green",
    "canceled": "bright_black",
    "failed": "red",
}


def status_of(batch: Batch) -> int:
    """The exit status: 1 if items ended without a result, or the batch is paused, canceled or failed."""
    if batch.state == "awaiting_approval":
        return DONE if not batch.counts.without_result else SOME_FAILED
    return DONE if batch.state == "completed" and not batch.counts.without_result else SOME_FAILED


def print_batches(batches: Iterable[Batch], *, as_json: bool) -> None:
    """Print batches: as JSON, as a table on a terminal, or as tab-separated lines."""
    listed = list(batches)
    if as_json:
        print_json({"data": [batch.model_dump(mode="json") for batch in listed]})
        return
    console = out()
    rows = [
        (
            batch.id,
            batch.state,
            plain(batch.name or ""),
            f"{batch.counts.ended}/{batch.counts.total}",
            str(batch.counts.without_result),
            f"${batch.cost_usd:.2f}",
            batch.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        )
        for batch in listed
    ]
    if not console.is_terminal:
        for row in rows:
            console.print("\t".join(row), markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("batch", "state", "name", "ended", "no result", "cost", "submitted"):
        table.add_column(heading, no_wrap=heading in {"batch", "state"})
    for batch_id, state, *rest in rows:
        table.add_row(batch_id, Text(state, style=STYLES.get(state, "")), *(Text(cell) for cell in rest))
    console.print(table)


def print_batch(batch: Batch, *, as_json: bool) -> None:
    """Print all fields of a batch."""
    if as_json:
        print_json(batch.model_dump(mode="json"))
        return
    counts = ", ".join(f"{count} {name}" for name, count in batch.counts.model_dump().items() if count)
    facts: list[tuple[str, object]] = [
        ("batch", batch.id),
        ("name", batch.name),
        ("state", batch.state),
        ("reason", batch.reason),
        ("waits for", batch.waits_for),
        ("fault", batch.fault),
        ("items", counts),
        ("progress", f"{batch.progress:.0%}"),
        ("time left", _duration(batch.eta_s) if batch.eta_s is not None else None),
        ("cost", f"${batch.cost_usd:.4f}"),
        ("estimate", f"${batch.estimated_cost_usd:.2f}" if batch.estimated_cost_usd is not None else None),
        ("budget", f"${batch.budget_usd:.2f}" if batch.budget_usd is not None else None),
        ("submitted", batch.created_at.astimezone().isoformat(" ", "seconds")),
        ("finished", batch.finished_at.astimezone().isoformat(" ", "seconds") if batch.finished_at else None),
        *((name, url) for name, url in (batch.results or {}).items() if url),
    ]
    console = out()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in facts:
        if value is not None:
            grid.add_row(name, Text(plain(value), style=STYLES.get(str(value), "") if name == "state" else ""))
    console.print(grid, soft_wrap=False, width=None if console.is_terminal else 10_000)


def follow(client: Client, batch_id: str) -> Batch:
    """Follow a batch until it has ended or needs a decision.

    stderr gets a progress bar if it is a terminal, else one line per change.
    """
    console = err()
    batch = client.batches.get(batch_id)
    if not console.is_terminal:
        last = ""
        for batch in client.batches.follow(batch_id):
            line = _line(batch)
            if line != last:
                console.print(line, markup=False)
                last = line
    else:
        with _bar(console) as bar:
            task = bar.add_task("edits", total=None, failures="", rate="")
            for batch in client.batches.follow(batch_id):
                _show(bar, task, batch)
    _hint(console, batch)
    return batch


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[cyan]{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[failures]}"),
        console=console,
    )


def _show(bar: Progress, task: TaskID, batch: Batch) -> None:
    counts = batch.counts
    rate = f"{batch.rate_per_s:.1f}/s" if batch.rate_per_s else ""
    left = f" {_duration(batch.eta_s)} left" if batch.eta_s is not None else ""
    bar.update(
        task,
        total=counts.total or None,
        completed=counts.ended,
        description=batch.state.replace("_", " "),
        rate=rate + left,
        failures=failures_text(counts.without_result),
    )


def _line(batch: Batch) -> str:
    counts = batch.counts
    left = f", {_duration(batch.eta_s)} left" if batch.eta_s is not None else ""
    failures = f", {counts.without_result} without result" if counts.without_result else ""
    reason = f" ({plain(batch.reason)})" if batch.reason else ""
    return f"{batch.id} {batch.state}{reason} {counts.ended}/{counts.total}{failures}{left}"


def _hint(console: Console, batch: Batch) -> None:
    if batch.state == "awaiting_approval":
        cost = f" for about ${batch.estimated_cost_usd:.2f} in total" if batch.estimated_cost_usd else ""
        time = f", about {_duration(batch.eta_s)}" if batch.eta_s else ""
        remaining = batch.counts.total - batch.counts.ended
        text = f"the trial is done: `retouch approve {batch.id}` edits the other {remaining}{cost}{time}"
    elif batch.state == "paused" and batch.reason == "budget":
        text = f"the budget is used up: `retouch resume {batch.id} --budget USD` continues with a new one"
    elif batch.counts.failed:
        text = f"`retouch retry {batch.id}` retries the failed jobs"
    elif batch.counts.rejected:
        text = f"`retouch results {batch.id} --rejects` shows the rejected rows and the reasons"
    else:
        return
    console.print(text, markup=False)


def _duration(seconds: float) -> str:
    rounded_s = round(seconds)
    if rounded_s < 60:
        return f"{rounded_s} s"
    if rounded_s < 3600:
        return f"{rounded_s // 60} min {rounded_s % 60:02d} s"
    return f"{rounded_s // 3600} h {rounded_s % 3600 // 60:02d} min"
