"""Follow jobs until they have ended: a progress bar on a terminal, otherwise one line per change."""

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
from retouch.commands.output import err, plain, styled
from retouch.records import Job

_MIN_PAUSE_S = 0.2
_MAX_PAUSE_S = 2.0
_MAX_READS_PER_SECOND = 40


class RateColumn(ProgressColumn):
    """Ended jobs per second."""

    def render(self, task: Task) -> Text:
        """The rate with its unit."""
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text(f"{task.completed / elapsed:.1f}/s" if elapsed and task.completed else "-/s", style="cyan")


def progress_bar(console: Console, what: str = "edits") -> Progress:
    """A bar with progress, rate, time left and failures. Its task needs the text field `failures`."""
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
    """How many jobs ended without a result, for the progress bar."""
    return failures_text(sum(job.final and job.state != "succeeded" for job in jobs))


def failures_text(count: int) -> str:
    """A number of items without a result, for the progress bar."""
    return f"[red]{count} without result[/red]" if count else "[green]no failures[/green]"


def follow(
    client: Client,
    jobs: Mapping[str, Job],
    names: Mapping[str, str],
    *,
    on_final: Callable[[Job], None] | None = None,
) -> dict[str, Job]:
    """Read jobs until all have ended, and show their progress on stderr.

    Args:
        client: the client of the service.
        jobs: the jobs by id, in their last known state.
        names: display names by job id; may be incomplete.
        on_final: called once for each job after its end.

    Returns:
        The final jobs, in the same order.
    """
    console = err()
    current = dict(jobs)
    if not console.is_terminal:
        for job in current.values():
            console.print(_line(job, names))
        poll(client, current, lambda job: console.print(_line(job, names)), on_final)
        return current
    with progress_bar(console) as bar:
        task = bar.add_task("edits", total=len(current), failures="")

        def show(job: Job) -> None:
            ended = sum(other.final for other in current.values())
            bar.update(task, completed=ended, failures=failures_in(current.values()))
            if job.final and job.state != "succeeded":
                bar.console.print(_line(job, names))

        for job in current.values():
            show(job)
        poll(client, current, show, on_final)
    return current


def poll(
    client: Client,
    jobs: dict[str, Job],
    changed: Callable[[Job], None],
    on_final: Callable[[Job], None] | None = None,
    *,
    timeout_s: float = math.inf,
) -> None:
    """Read the unfinished jobs until all have ended or the timeout expires; updates `jobs`.

    The pause between reads grows, and is short again after a change.
    """
    end = time.monotonic() + timeout_s
    if on_final:
        for job in jobs.values():
            if job.final:
                on_final(job)
    pause = _MIN_PAUSE_S
    while (live := [job for job in jobs.values() if not job.final]) and time.monotonic() < end:
        time.sleep(max(pause, len(live) / _MAX_READS_PER_SECOND))
        pause = min(_MAX_PAUSE_S, pause * 1.5)
        for before in live:
            now = client.job(before.id)
            jobs[now.id] = now
            if now.state != before.state or len(now.attempts) != len(before.attempts):
                pause = _MIN_PAUSE_S
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
