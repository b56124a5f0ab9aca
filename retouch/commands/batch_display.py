"""How batches are shown: a table, all about one, and a progress bar while it is followed."""

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
from retouch.commands.console import DONE, SOME_FAILED, err, out, plain, print_json
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
    """0 if all it was to do is done, 1 if some items have no result or it stands still."""
    if batch.state == "awaiting_approval":
        return DONE if not batch.counts.without_result else SOME_FAILED
    return DONE if batch.state == "completed" and not batch.counts.without_result else SOME_FAILED


def print_batches(batches: Iterable[Batch], *, as_json: bool) -> None:
    """A list: JSON, a table on a terminal, or lines of tab-separated columns."""
    found = list(batches)
    if as_json:
        print_json({"data": [batch.model_dump(mode="json") for batch in found]})
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
        for batch in found
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
    """All about one batch."""
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
        *((name, address) for name, address in (batch.results or {}).items() if address),
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
    """Follow a batch until it has ended or waits for a word: a bar on a terminal, a line for each change elsewhere."""
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
            task = bar.add_task("edits", total=None, told="", rate="")
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
        TextColumn("{task.fields[told]}"),
        console=console,
    )


def _show(bar: Progress, task: TaskID, batch: Batch) -> None:
    counts = batch.counts
    rate = f"{batch.rate_per_s:.1f}/s" if batch.rate_per_s else ""
    left = f" {_duration(batch.eta_s)} left" if batch.eta_s is not None else ""
    lost = counts.without_result
    told = f"[red]{lost} without result[/red]" if lost else "[green]no failures[/green]"
    bar.update(
        task,
        total=counts.total or None,
        completed=counts.ended,
        description=batch.state.replace("_", " "),
        rate=rate + left,
        told=told,
    )


def _line(batch: Batch) -> str:
    counts = batch.counts
    left = f", {_duration(batch.eta_s)} left" if batch.eta_s is not None else ""
    lost = f", {counts.without_result} without result" if counts.without_result else ""
    why = f" ({plain(batch.reason)})" if batch.reason else ""
    return f"{batch.id} {batch.state}{why} {counts.ended}/{counts.total}{lost}{left}"


def _hint(console: Console, batch: Batch) -> None:
    open_ = batch.counts.total - batch.counts.ended
    if batch.state == "awaiting_approval":
        cost = f" for about ${batch.estimated_cost_usd:.2f} in all" if batch.estimated_cost_usd else ""
        time = f", about {_duration(batch.eta_s)}" if batch.eta_s else ""
        text = f"the trial is done: `retouch approve {batch.id}` edits the other {open_}{cost}{time}"
    elif batch.state == "paused" and batch.reason == "budget":
        text = f"its budget is used up: `retouch resume {batch.id} --budget USD` goes on"
    elif batch.counts.failed:
        text = f"`retouch retry {batch.id}` tries the failed ones again"
    elif batch.counts.rejected:
        text = f"`retouch results {batch.id} --rejects` shows the rows that were refused, and why"
    else:
        return
    console.print(text, markup=False)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
