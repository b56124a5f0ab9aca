"""`schedules`: batches on a cron schedule. `rollback`: restore the previous versions of a batch's outputs."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from retouch.client import Client
from retouch.commands.output import (
    DONE,
    SOME_FAILED,
    out,
    plain,
    print_json,
    report_refusal,
    wrong_usage,
)
from retouch.commands.show_list import AsJson
from retouch.errors import ProblemError
from retouch.schedules import Run, Schedule

STYLES = {
    "active": "green",
    "paused": "yellow",
    "ended": "bright_black",
    "due": "cyan",
    "queued": "cyan",
    "running": "blue",
    "completed": "green",
    "unchanged": "green",
    "canceled": "bright_black",
    "skipped": "yellow",
    "missed": "yellow",
    "failed": "red",
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_POLL_S = 1.0

app = typer.Typer(help="Create and manage schedules of batches.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a schedule (sch_…).")]
Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of schedules (sch_…).")]


def register(main: typer.Typer) -> None:
    """Add `rollback`, which is not part of the group."""
    main.command()(rollback)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A display name.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="s3://bucket/prefix/ (all its images), s3://bucket/list.csv, https://…, or a local manifest.",
        ),
    ],
    *,
    cron: Annotated[str, typer.Option(help="Five fields such as '30 2 * * *', or a shortcut such as @daily.")],
    prompt: Annotated[str | None, typer.Option(help="The description of the edit.")] = None,
    timezone: Annotated[str, typer.Option(help="Time zone, such as Europe/Berlin.")] = "UTC",
    model: Annotated[str | None, typer.Option(help="The model. Default: the service's default.")] = None,
    output_key: Annotated[
        str | None, typer.Option(help="Template of the output keys, such as shop/{custom_id}.{ext}.")
    ] = None,
    default: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=VALUE", help="Default of the jobs, such as steps=8. Repeatable.")
    ] = None,
    overlap: Annotated[
        str, typer.Option(help="If the previous run has not ended: skip, queue or cancel_previous.")
    ] = "skip",
    catch_up: Annotated[
        str | None, typer.Option(help="Run late after a downtime of up to this time, such as 90m or 2h.")
    ] = None,
    ends_at: Annotated[str | None, typer.Option(metavar="TIME", help="No runs after this time (RFC 3339).")] = None,
    trial: Annotated[int | None, typer.Option(help="Edit this number of items first, then wait for `approve`.")] = None,
    budget_usd: Annotated[float | None, typer.Option(help="Budget of each run in US dollars.")] = None,
    webhook_url: Annotated[str | None, typer.Option(help="URL that receives webhooks about each run's batch.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also edit unchanged images of a prefix.")] = False,
    reuse: Annotated[bool, typer.Option(help="Use the results of earlier identical edits.")] = True,
    supersede: Annotated[
        bool, typer.Option(help="Cancel waiting jobs with the same custom_id, and keep replaced results as versions.")
    ] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Create the schedule paused.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create a schedule."""
    options = {"prompt": prompt, "model": model, "output_key": output_key, "reuse": None if reuse else False}
    defaults = {**_pairs(default), **{key: value for key, value in options.items() if value is not None}}
    with Client() as client:
        schedule = client.schedules.create(
            name,
            cron,
            manifest=_upload_if_local(client, source),
            timezone=timezone,
            defaults=defaults,
            overlap=overlap,
            catch_up_s=_seconds(catch_up) if catch_up else None,
            ends_at=ends_at,
            trial=trial,
            budget_usd=budget_usd,
            webhook_url=webhook_url,
            only_changed=not everything,
            supersede=supersede or None,
            paused=paused or None,
        )
    _print_schedule(schedule, as_json=as_json)


@app.command("list")
def list_schedules(
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of entries.")] = 50, as_json: AsJson = False
) -> None:
    """List schedules, newest first."""
    with Client() as client:
        schedules = list(client.schedules.list(limit=limit))
    _print_schedules(schedules, as_json=as_json)


@app.command()
def show(schedule_id: Id, as_json: AsJson = False) -> None:
    """Show all fields of a schedule."""
    with Client() as client:
        _print_schedule(client.schedules.get(schedule_id), as_json=as_json)


@app.command()
def pause(ids: Ids, as_json: AsJson = False) -> None:
    """Pause schedules: start no more runs. Runs that have started continue."""
    with Client() as client:
        _act_on_each(ids, client.schedules.pause, as_json=as_json)


@app.command()
def resume(ids: Ids, as_json: AsJson = False) -> None:
    """Resume paused schedules from the next scheduled time."""
    with Client() as client:
        _act_on_each(ids, client.schedules.resume, as_json=as_json)


@app.command()
def run(
    schedule_id: Id,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a run now, in addition to the scheduled times."""
    with Client() as client:
        started = client.schedules.run(schedule_id)
        while wait and not started.ended:
            time.sleep(_POLL_S)
            started = client.schedules.run_of(schedule_id, started.id)
    _print_runs([started], as_json=as_json)
    lacks_results = started.ended and started.counts is not None and started.counts.without_result > 0
    raise typer.Exit(SOME_FAILED if started.state == "failed" or lacks_results else DONE)


@app.command()
def delete(ids: Ids) -> None:
    """Delete schedules and their runs. Batches that the runs created continue."""
    with Client() as client:
        for schedule_id in dict.fromkeys(ids):
            client.schedules.delete(schedule_id)


@app.command()
def runs(
    schedule_id: Id,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of entries.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List a schedule's runs and their outcomes, latest first."""
    with Client() as client:
        listed = list(client.schedules.runs(schedule_id, limit=limit))
    _print_runs(listed, as_json=as_json)


def rollback(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH", help="Id of an ended batch with --supersede (bat_…).")],
    as_json: AsJson = False,
) -> None:
    """Restore the previous versions of a batch's outputs, and wait until this is done."""
    with Client() as client:
        batch = client.batches.rollback(batch_id)
        while (batch.rollback or {}).get("state") == "running":
            time.sleep(_POLL_S)
            batch = client.batches.get(batch_id)
    progress = batch.rollback or {}
    if as_json:
        print_json(batch.model_dump(mode="json"))
    else:
        _lines((name, str(value)) for name, value in progress.items())
    raise typer.Exit(SOME_FAILED if progress.get("lost") else DONE)


def _act_on_each(ids: list[str], act: Callable[[str], Schedule], *, as_json: bool) -> None:
    """Act on each schedule, print the new states and exit. A refusal of one does not stop the others."""
    schedules: list[Schedule] = []
    status = DONE
    for schedule_id in dict.fromkeys(ids):
        try:
            schedules.append(act(schedule_id))
        except ProblemError as problem:
            status = max(status, report_refusal(schedule_id, problem, single=len(ids) == 1))
    _print_schedules(schedules, as_json=as_json)
    raise typer.Exit(status)


def _upload_if_local(client: Client, source: str) -> str:
    """The source's URL; a local manifest is uploaded to the bucket first."""
    if "://" in source:
        return source
    path = Path(source)
    if not path.is_file():
        wrong_usage(f"{source} is neither a URL nor a file")
    return client.upload(path)


def _pairs(entries: Iterable[str] | None) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for entry in entries or ():
        name, equals, value = entry.partition("=")
        if not equals or not name:
            wrong_usage(f"--default takes FIELD=VALUE, not {entry!r}")
        try:
            pairs[name] = json.loads(value)
        except ValueError:
            pairs[name] = value
    return pairs


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not match:
        wrong_usage(f"--catch-up takes a time such as 90m, 2h or 1d, not {text!r}")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _print_schedules(schedules: Sequence[Schedule], *, as_json: bool) -> None:
    if as_json:
        print_json({"data": [record.model_dump(mode="json") for record in schedules]})
        return
    rows = [
        [
            schedule.id,
            schedule.state,
            schedule.name,
            f"{schedule.cron} {schedule.timezone}",
            _local_time(schedule.next_run_at),
            _source_of(schedule),
        ]
        for schedule in schedules
    ]
    _print_rows(("schedule", "state", "name", "cron", "next run", "source"), rows)


def _print_schedule(schedule: Schedule, *, as_json: bool) -> None:
    if as_json:
        print_json(schedule.model_dump(mode="json"))
        return
    facts: list[tuple[str, object]] = [
        ("schedule", schedule.id),
        ("name", schedule.name),
        ("state", schedule.state),
        ("cron", f"{schedule.cron} ({schedule.timezone})"),
        ("source", _source_of(schedule)),
        ("only changed", schedule.only_changed),
        ("overlap", schedule.overlap),
        ("catch up", f"{schedule.catch_up_s:g} s"),
        ("ends", _local_time(schedule.ends_at)),
        ("supersede", schedule.supersede),
        *((f"default {name}", value) for name, value in schedule.defaults.items()),
        ("next runs", ", ".join(map(_local_time, schedule.next_runs))),
        ("current run", schedule.current_run or ""),
        ("runs", ", ".join(f"{count} {name}" for name, count in schedule.runs.items() if count)),
    ]
    _lines((name, plain(value)) for name, value in facts if value not in {"", None})


def _print_runs(listed: Sequence[Run], *, as_json: bool) -> None:
    if as_json:
        print_json({"data": [record.model_dump(mode="json") for record in listed]})
        return
    rows = [
        [run.id, run.state, _local_time(run.scheduled_at), run.batch_id or "", _outcome(run), f"${run.cost_usd:.4f}"]
        for run in listed
    ]
    _print_rows(("run", "state", "scheduled", "batch", "outcome", "cost"), rows)


def _outcome(run: Run) -> str:
    parts = []
    if run.listed is not None:
        parts.append(f"{run.listed:,} listed, {run.unchanged or 0:,} unchanged")
    if run.counts is not None:
        counts = run.counts.model_dump()
        names = ("succeeded", "reused", "failed", "filtered", "canceled", "rejected", "queued", "running")
        parts += [f"{counts[name]:,} {name}" for name in names if counts.get(name)]
    return "; ".join([*parts, *filter(None, (run.reason or run.waits_for,))])


def _source_of(schedule: Schedule) -> str:
    return schedule.manifest or f"{schedule.items_count or 0} items"


def _local_time(timestamp: datetime | None) -> str:
    return timestamp.astimezone().strftime("%Y-%m-%d %H:%M") if timestamp else ""


def _lines(facts: Iterable[tuple[str, str]]) -> None:
    sys.stdout.writelines(f"{name:15} {plain(value)}\n" for name, value in facts)


def _print_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console = out()
    if not console.is_terminal:
        sys.stdout.writelines("\t".join(plain(cell) for cell in row) + "\n" for row in rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading in {headings[0], "state"})
    for first, state, *rest in rows:
        styled = Text(plain(state), style=STYLES.get(state, ""))
        table.add_row(Text(plain(first)), styled, *(Text(plain(cell)) for cell in rest))
    console.print(table)
