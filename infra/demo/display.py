"""Shows the progress of the demo: a live table, or lines if the output is no terminal."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from retouch import Job
from retouch.commands.output import plain, styled
from retouch.commands.watch import failures_in, progress_bar


class Display:
    """A live view of the demo's jobs.

    Args:
        console: the output.
        prompts: prompts by `custom_id` of the jobs, in display order.
    """

    def __init__(self, console: Console, prompts: Mapping[str, str]) -> None:
        self._console = console
        self._prompts = prompts
        self._jobs: dict[str, Job] = {}
        self._started_at = time.monotonic()
        self._bar = progress_bar(console)
        self._task = self._bar.add_task("edits", total=len(prompts), failures="")
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, job: Job) -> None:
        """Show a new or changed job."""
        name = job.custom_id or job.id
        self._jobs[name] = job
        ended = sum(other.final for other in self._jobs.values())
        self._bar.update(self._task, completed=ended, failures=failures_in(self._jobs.values()))
        if not self._console.is_terminal:
            seconds = time.monotonic() - self._started_at
            self._console.print(f"{seconds:5.1f} s  {name:11} {job.state:10} {_details(job)}".rstrip(), markup=False)

    def _render(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("picture", "edit", "state", "attempts", "time"):
            table.add_column(heading, justify="right" if heading in {"attempts", "time"} else "left", no_wrap=True)
        for name, prompt in self._prompts.items():
            job = self._jobs.get(name)
            if job is None:
                table.add_row(name, Text(prompt, style="dim"), "", "", "")
                continue
            took = f"{job.took_s:.1f} s" if job.took_s is not None else ""
            tries = str(len(job.attempts)) if job.attempts else ""
            table.add_row(name, Text(prompt, style="dim"), styled(job.state), tries, took)
        return Group(table, Text(), self._bar)


def _details(job: Job) -> str:
    if job.error:
        return f"{job.error.code}: {plain(job.error.message)}"
    if job.final:
        return f"{job.took_s or 0:.1f} s"
    return plain(job.attempts[-1].message or "") if job.attempts else ""
