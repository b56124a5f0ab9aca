"""`schedules`: batches by the clock. `rollback`: a batch's output keys go back to what lay under them before."""

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
from retouch.commands.console import (
    DONE,
    SOME_FAILED,
    WRONG_USAGE,
    exit_status,
    out,
    plain,
    print_error,
    print_json,
    wrong_usage,
)
from retouch.commands.reading import AsJson
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

app = typer.Typer(help="Run batches by the clock.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a schedule (sch_…).")]
Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of schedules (sch_…).")]


def register(main: typer.Typer) -> None:
    """Add what stands beside the group."""
    main.command()(rollback)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is called.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="s3://bucket/prefix/ (every picture under it), s3://bucket/list.csv, https://…, or a local manifest.",
        ),
    ],
    *,
    cron: Annotated[str, typer.Option(help="Five fields, as '30 2 * * *', or @daily and the like.")],
    prompt: Annotated[str | None, typer.Option(help="What the edit shall be.")] = None,
    timezone: Annotated[str, typer.Option(help="Whose clock, as Europe/Berlin.")] = "UTC",
    model: Annotated[str | None, typer.Option(help="A model's name.")] = None,
    output_key: Annotated[str | None, typer.Option(help="As shop/{custom_id}.{ext}.")] = None,
    default: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=VALUE", help="Of every job, as steps=8; may be repeated.")
    ] = None,
    overlap: Annotated[str, typer.Option(help="While a run goes on: skip, queue or cancel_previous.")] = "skip",
    catch_up: Annotated[str | None, typer.Option(help="Make up for what a downtime missed, as 90m or 2h.")] = None,
    ends_at: Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339: no run after it.")] = None,
    trial: Annotated[int | None, typer.Option(help="Edit so many first, and wait for approve.")] = None,
    budget_usd: Annotated[float | None, typer.Option(help="Of each run.")] = None,
    webhook_url: Annotated[str | None, typer.Option(help="Told of each run's batch.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Of a prefix: unchanged pictures, too.")] = False,
    reuse: Annotated[bool, typer.Option(help="Take over equal edits that were made before.")] = True,
    supersede: Annotated[bool, typer.Option(help="Waiting jobs give way, results become versions.")] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Begin paused.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a schedule."""
    told = {"prompt": prompt, "model": model, "output_key": output_key, "reuse": None if reuse else False}
    defaults = {**_pairs(default), **{key: value for key, value in told.items() if value is not None}}
    with Client() as client:
        made = client.schedules.create(
            name,
            cron,
            manifest=_source(client, source),
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
    _print_schedule(made, as_json=as_json)


@app.command("list")
def list_schedules(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50, as_json: AsJson = False
) -> None:
    """List schedules, newest first."""
    with Client() as client:
        found = list(client.schedules.list(limit=limit))
    _print_schedules(found, as_json=as_json)


@app.command()
def show(schedule_id: Id, as_json: AsJson = False) -> None:
    """Show all about a schedule."""
    with Client() as client:
        _print_schedule(client.schedules.get(schedule_id), as_json=as_json)


@app.command()
def pause(ids: Ids, as_json: AsJson = False) -> None:
    """Let nothing more be due; runs that go on go on."""
    with Client() as client:
        _each(ids, client.schedules.pause, as_json=as_json)


@app.command()
def resume(ids: Ids, as_json: AsJson = False) -> None:
    """Go on with the next tick."""
    with Client() as client:
        _each(ids, client.schedules.resume, as_json=as_json)


@app.command()
def run(
    schedule_id: Id,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a schedule now, beside its ticks."""
    with Client() as client:
        made = client.schedules.run(schedule_id)
        while wait and not made.ended:
            time.sleep(_POLL_S)
            made = client.schedules.run_of(schedule_id, made.id)
    _print_runs([made], as_json=as_json)
    failed = made.state == "failed" or (made.ended and made.counts is not None and made.counts.without_result > 0)
    raise typer.Exit(SOME_FAILED if failed else DONE)


@app.command()
def delete(ids: Ids) -> None:
    """Delete schedules and their runs; batches that they made go on."""
    with Client() as client:
        for schedule_id in dict.fromkeys(ids):
            client.schedules.delete(schedule_id)


@app.command()
def runs(
    schedule_id: Id,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List a schedule's runs, the latest first, with what they did."""
    with Client() as client:
        found = list(client.schedules.runs(schedule_id, limit=limit))
    _print_runs(found, as_json=as_json)


def rollback(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH", help="Id of a batch that superseded and has ended.")],
    as_json: AsJson = False,
) -> None:
    """Point a batch's output keys back to the versions before, and wait until that is done."""
    with Client() as client:
        batch = client.batches.rollback(batch_id)
        while (batch.rollback or {}).get("state") == "running":
            time.sleep(_POLL_S)
            batch = client.batches.get(batch_id)
    done = batch.rollback or {}
    if as_json:
        print_json(batch.model_dump(mode="json"))
    else:
        _lines((name, str(value)) for name, value in done.items())
    raise typer.Exit(SOME_FAILED if done.get("lost") else DONE)


def _each(ids: list[str], act: Callable[[str], Schedule], *, as_json: bool) -> None:
    """Act on each; one that refuses does not keep the others from it."""
    done: list[Schedule] = []
    worst = DONE
    for schedule_id in dict.fromkeys(ids):
        try:
            done.append(act(schedule_id))
        except ProblemError as problem:
            if problem.status not in {404, 409}:
                raise
            print_error(f"{schedule_id}: {problem}")
            worst = max(worst, min(exit_status(problem), WRONG_USAGE if len(ids) == 1 else SOME_FAILED))
    _print_schedules(done, as_json=as_json)
    raise typer.Exit(worst)


def _source(client: Client, source: str) -> str:
    """An address as it is; a local manifest is put into the bucket first."""
    if "://" in source:
        return source
    path = Path(source)
    if not path.is_file():
        wrong_usage(f"{source} is neither an address nor a file")
    return client.upload(path)


def _pairs(given: Iterable[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            wrong_usage(f"--default takes FIELD=VALUE, not {text!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not match:
        wrong_usage(f"--catch-up takes a time such as 90m, 2h or 1d, not {text!r}")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _print_schedules(found: Sequence[Schedule], *, as_json: bool) -> None:
    if as_json:
        print_json({"data": [one.model_dump(mode="json") for one in found]})
        return
    rows = [
        [one.id, one.state, one.name, f"{one.cron} {one.timezone}", _when(one.next_run_at), _source_of(one)]
        for one in found
    ]
    _print_rows(("schedule", "state", "name", "due", "next", "source"), rows)


def _print_schedule(one: Schedule, *, as_json: bool) -> None:
    if as_json:
        print_json(one.model_dump(mode="json"))
        return
    facts: list[tuple[str, object]] = [
        ("schedule", one.id),
        ("name", one.name),
        ("state", one.state),
        ("cron", f"{one.cron} ({one.timezone})"),
        ("source", _source_of(one)),
        ("only changed", one.only_changed),
        ("overlap", one.overlap),
        ("catch up", f"{one.catch_up_s:g} s"),
        ("ends", _when(one.ends_at)),
        ("supersede", one.supersede),
        *((f"default {name}", value) for name, value in one.defaults.items()),
        ("next", ", ".join(_when(moment) for moment in one.next_runs)),
        ("run going on", one.current_run or ""),
        ("runs", ", ".join(f"{count} {name}" for name, count in one.runs.items() if count)),
    ]
    _lines((name, plain(value)) for name, value in facts if value not in {"", None})


def _print_runs(found: Sequence[Run], *, as_json: bool) -> None:
    if as_json:
        print_json({"data": [one.model_dump(mode="json") for one in found]})
        return
    rows = [
        [one.id, one.state, _when(one.scheduled_at), one.batch_id or "", _did(one), f"${one.cost_usd:.4f}"]
        for one in found
    ]
    _print_rows(("run", "state", "scheduled", "batch", "what it did", "cost"), rows)


def _did(run: Run) -> str:
    told = []
    if run.listed is not None:
        told.append(f"{run.listed:,} listed, {run.unchanged or 0:,} unchanged")
    if run.counts is not None:
        counts = run.counts.model_dump()
        names = ("succeeded", "reused", "failed", "filtered", "canceled", "rejected", "queued", "running")
        told += [f"{counts[name]:,} {name}" for name in names if counts.get(name)]
    return "; ".join([*told, *filter(None, (run.reason or run.waits_for,))])


def _source_of(one: Schedule) -> str:
    return one.manifest or f"{one.items_count or 0} items"


def _when(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment else ""


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
