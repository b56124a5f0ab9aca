"""Following jobs to their end: a progress bar on a terminal, a line for each change elsewhere."""

import math
import time
from collections.abc import Callable, Iterable, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from retouch.client import Client
from retouch.commands.console import err, plain, styled
from retouch.records import Job

_QUICK_S = 0.2
_SLOW_S = 2.0
_MOST_READS_A_SECOND = 40


class RateColumn(ProgressColumn):
    """Jobs ended a second."""

    def render(self, task: Task) -> Text:
        """One number and its unit."""
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text(f"{task.completed / elapsed:.1f}/s" if elapsed and task.completed else "-/s", style="cyan")


def progress_bar(console: Console, what: str = "edits") -> Progress:
    """A bar with done of total, rate, time left and failures; its task needs the field `failures` (a text)."""
    return Progress(
        SpinnerColumn(),
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[failures]}"),
        console=console,
    )


def failures_in(jobs: Iterable[Job]) -> str:
    """How many ended without a result, for the bar."""
    count = sum(job.final and job.state != "succeeded" for job in jobs)
    return f"[red]{count} without result[/red]" if count else "[green]no failures[/green]"


def follow(
    client: Client,
    jobs: Mapping[str, Job],
    names: Mapping[str, str],
    *,
    on_final: Callable[[Job], None] | None = None,
) -> dict[str, Job]:
    """Read jobs until all have ended, and show how they do on stderr.

    Args:
        client: what to ask.
        jobs: as they were last seen, by id.
        names: what to call them, by id; the id alone where absent.
        on_final: called once for each as it ends.

    Returns:
        The final jobs, in the same order.
    """
    console = err()
    seen = dict(jobs)
    if not console.is_terminal:
        for job in seen.values():
            console.print(_line(job, names))
        poll(client, seen, lambda job: console.print(_line(job, names)), on_final)
        return seen
    with progress_bar(console) as bar:
        task = bar.add_task("edits", total=len(seen), failures="")

        def show(job: Job) -> None:
            ended = sum(other.final for other in seen.values())
            bar.update(task, completed=ended, failures=failures_in(seen.values()))
            if job.final and job.state != "succeeded":
                bar.console.print(_line(job, names))

        for job in seen.values():
            show(job)
        poll(client, seen, show, on_final)
    return seen


def poll(
    client: Client,
    seen: dict[str, Job],
    changed: Callable[[Job], None],
    on_final: Callable[[Job], None] | None = None,
    *,
    timeout_s: float = math.inf,
) -> None:
    """Ask after those that have not ended: often at first and after a change, seldom when nothing happens.

    Returns when all have ended, or the time is over.
    """
    end = time.monotonic() + timeout_s
    if on_final:
        for job in seen.values():
            if job.final:
                on_final(job)
    pause = _QUICK_S
    while (live := [job for job in seen.values() if not job.final]) and time.monotonic() < end:
        time.sleep(max(pause, len(live) / _MOST_READS_A_SECOND))
        pause = min(_SLOW_S, pause * 1.5)
        for before in live:
            now = client.job(before.id)
            seen[now.id] = now
            if now.state != before.state or len(now.attempts) != len(before.attempts):
                pause = _QUICK_S
                changed(now)
            if now.final and on_final:
                on_final(now)


def _line(job: Job, names: Mapping[str, str]) -> Text:
    name = names.get(job.id)
    line = Text.assemble(job.id, f" {plain(name)} " if name else " ", styled(job.state))
    if job.error:
        line.append(f" {plain(job.error.code)}: {plain(job.error.message)}")
    elif not job.final and job.attempts and job.attempts[-1].message:
        line.append(f" attempt {job.attempts[-1].number}: {plain(job.attempts[-1].message)}")
    return line
