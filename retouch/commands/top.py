"""`top`: a live view of the tenant's jobs, and with an admin key of the whole fleet."""

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from retouch.client import Client
from retouch.commands.output import STYLES, out, plain, print_json
from retouch.commands.show_list import AsJson
from retouch.errors import BadAnswer, ProblemError, RetouchError, Unreachable
from retouch.records import STATES, Model


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(top)


def top(
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between updates.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print the current state once and exit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch jobs and models; with an admin key also rates, lanes and workers of the whole fleet. Ctrl-C ends it."""
    with Client() as client:
        if as_json:
            print_json(client.stats())
            return
        console = out()
        if once or not console.is_terminal:
            # Full width: a program or a file may receive the output.
            wide = console if console.is_terminal else Console(file=console.file, width=160, highlight=False)
            wide.print(render(client.stats(), client.models()))
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for screen in screens(client):
                live.update(screen, refresh=True)
                time.sleep(every)


def screens(client: Client) -> Iterator[Group]:
    """Yield the current state again and again. While the service does not answer, yield the last state with a warning.

    Raises:
        RetouchError: the first request failed, or the error is permanent, for example because the key is revoked.
    """
    last: Group | None = None
    while True:
        try:
            screen = last = render(client.stats(), client.models())
        except RetouchError as error:
            if last is None or not _is_temporary(error):
                raise
            warning = Text(
                f"the service does not answer; this is its last known state: {plain(error)}", style="bold red"
            )
            screen = Group(warning, last)
        yield screen


def _is_temporary(error: RetouchError) -> bool:
    if isinstance(error, ProblemError):
        return error.status == 429 or error.status >= 500
    return isinstance(error, Unreachable | BadAnswer)


def render(stats: dict[str, Any], models: list[Model]) -> Group:
    """Render one screen.

    Args:
        stats: the answer of `GET /v1/stats`.
        models: the answer of `GET /v1/models`; shown if `stats` has no `fleet`.
    """
    fleet = stats.get("fleet")
    title = Text.assemble(("retouch top", "bold"), f"  {plain(stats['at'])[:19].replace('T', ' ')} UTC")
    own = Panel(_states(stats["tenant"]["jobs"]), title=f"jobs of {plain(stats['tenant']['name'])}", title_align="left")
    if fleet is None:
        return Group(title, own, _models_of_tenant(models))
    alarms = [_alarm(model) for model in fleet["models"] if model["parked"]]
    all_jobs = Panel(_states(fleet["jobs"]), title="all jobs", title_align="left")
    return Group(
        title, *alarms, own, all_jobs, _rates(fleet), _models(fleet["models"]), _workers(fleet), _deliveries(fleet)
    )


def _states(jobs: dict[str, int]) -> Text:
    parts: list[Any] = []
    for state in STATES:
        parts += [(f"{state} ", STYLES[state]), f"{jobs.get(state, 0):,}   "]
    return Text.assemble(*parts)


def _alarm(model: dict[str, Any]) -> Text:
    return Text(f"{plain(model['name'])} is parked: {plain(model['parked_reason'])}", style="bold red")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _rates(fleet: dict[str, Any]) -> Table:
    names = ("submitted", "started", "succeeded", "filtered", "failed", "canceled", "retried", "leases_lost")
    table = _table("in the last", *(name.replace("_", " ") for name in names), "cost")
    for name, period in (("minute", fleet["last_minute"]), ("hour", fleet["last_hour"])):
        cells = []
        for rate in names:
            style = "red" if rate in {"failed", "leases_lost"} and period[rate] else ""
            cells.append(Text(f"{period[rate]:,}", style=style))
        table.add_row(name, *cells, f"${period['cost_usd']:.2f}")
    return table


def _models(models: list[dict[str, Any]]) -> Table:
    table = _table(
        "model", "window", "of", "in flight", "pace/min", "queued", "waiting", "lanes", "oldest", "paid twice"
    )
    for model in models:
        jobs, oldest = model["jobs"], max(model["oldest_queued_s"].values(), default=0)
        table.add_row(
            Text(plain(model["name"]), style="red" if model["parked"] else ""),
            str(model["window"]),
            str(model["concurrency"]),
            str(model["in_flight"]),
            f"{model['pace_rpm']:g}" if model["pace_rpm"] else "any",
            f"{jobs.get('queued', 0):,}",
            f"{jobs.get('waiting', 0):,}",
            f"{model['lanes']:,}",
            _age(oldest),
            str(model["paid_again"]),
        )
    return table


def _models_of_tenant(models: list[Model]) -> Table:
    table = _table("model", "window", "in flight", "pace/min", "queued", "waiting", "state")
    for model in models:
        table.add_row(
            plain(model.name),
            str(model.window),
            str(model.in_flight),
            f"{model.pace_rpm:g}" if model.pace_rpm else "any",
            f"{model.queued:,}",
            f"{model.waiting:,}",
            Text(f"parked: {plain(model.parked_reason)}", style="red") if model.parked else "open",
        )
    return table


def _workers(fleet: dict[str, Any]) -> Table:
    table = _table("worker", "queues", "threads", "state")
    for worker in fleet["workers"]:
        state = "draining" if worker["draining"] else "live"
        table.add_row(plain(worker["name"]), plain(", ".join(worker["queues"])), str(worker["slots"]), state)
    if not fleet["workers"]:
        table.add_row(Text("no workers: jobs wait", style="red"), "", "", "")
    return table


def _deliveries(fleet: dict[str, Any]) -> Text:
    deliveries = fleet["deliveries"]
    memory = f"{fleet['memory_used_bytes'] / 1e6:,.0f} MB"
    ended = deliveries["ended"]
    return Text(
        f"webhooks: {deliveries['waiting']:,} waiting, {ended.get('succeeded', 0):,} delivered, "
        f"{ended.get('exhausted', 0):,} exhausted, {deliveries['breakers_open']} receivers paused    "
        f"redis: {memory}    cost: ${fleet['cost_usd']:,.2f}"
    )


def _age(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
