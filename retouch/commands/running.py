"""`up`, `demo`, `api`, `worker`, `flower`: starting processes. What they need is imported when they are called."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from retouch.commands.console import WRONG_USAGE, print_error

DataDir = Annotated[Path, typer.Option(help="Where the embedded servers keep their data.")]
Config = Annotated[Path | None, typer.Option(help="retouch.toml, the model catalogue (default: RETOUCH_CONFIG).")]

FreePort = Annotated[int, typer.Option(help="0 takes the port of the last run if it is free, else any.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(up)
    app.command()(demo)
    app.command()(api)
    app.command()(worker)
    app.command()(flower)


def up(
    *,
    data_dir: DataDir = Path(".retouch"),
    port: Annotated[int, typer.Option(help="Port of the API.")] = 8000,
    workers: Annotated[int, typer.Option(help="Processes that edit.")] = 1,
    concurrency: Annotated[int, typer.Option(help="Edits in flight of one such process.")] = 64,
    config: Config = None,
    flower: Annotated[bool, typer.Option("--flower/--no-flower", help="Whether Flower runs.")] = True,
    redis_port: FreePort = 0,
    s3_port: FreePort = 0,
    flower_port: FreePort = 0,
    simulator_port: FreePort = 0,
    simulator: Annotated[
        str, typer.Option(metavar="ARGUMENTS", help="For the simulator, for instance '--latency-ms 2000 --rpm 100'.")
    ] = "",
) -> None:
    """Run the whole stack in the foreground, on loopback; Ctrl-C drains and stops it."""
    from infra.stack import UpOptions  # noqa: PLC0415
    from infra.stack import up as run  # noqa: PLC0415

    options = UpOptions(
        data_dir=data_dir,
        port=port,
        workers=workers,
        concurrency=concurrency,
        config=config,
        flower=flower,
        redis_port=redis_port,
        s3_port=s3_port,
        flower_port=flower_port,
        simulator_port=simulator_port,
        simulator_arguments=tuple(shlex.split(simulator)),
    )
    _run(lambda: run(options))


def demo(
    *,
    data_dir: DataDir = Path(".retouch"),
    config: Config = None,
) -> None:
    """Edit a dozen pictures with the whole stack, write a contact sheet, and stop."""
    from infra.demo import DemoOptions  # noqa: PLC0415
    from infra.demo import demo as run  # noqa: PLC0415

    _run(lambda: run(DemoOptions(data_dir=data_dir, config=config)))


def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Run one process of the submit API."""
    from infra.processes import run_api  # noqa: PLC0415

    _run(lambda: run_api(host, port))


def worker(
    queues: Annotated[str, typer.Option(help="Comma-separated: edits, webhooks, ingest.")] = "edits,webhooks,ingest",
    concurrency: Annotated[int, typer.Option(min=1, help="Jobs at a time.")] = 64,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that running jobs have when it is told to stop.")] = 60,
    name: Annotated[str | None, typer.Option(help="Unique in the fleet; made from the host's if absent.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve metrics there (default: RETOUCH_METRICS_PORT, or not).")
    ] = None,
) -> None:
    """Run one worker process."""
    from infra.processes import run_worker  # noqa: PLC0415

    named = [queue.strip() for queue in queues.split(",") if queue.strip()]
    _run(lambda: run_worker(named, concurrency, grace, name, metrics_port=metrics_port))


def flower(
    *,
    address: Annotated[str, typer.Option(envvar="FLOWER_ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, envvar="FLOWER_PORT", help="Port to listen on.")] = 5555,
    db: Annotated[
        Path | None, typer.Option(envvar="FLOWER_DB", help="Keep what it has seen in this file, over restarts.")
    ] = None,
    max_tasks: Annotated[
        int, typer.Option(min=1, envvar="FLOWER_MAX_TASKS", help="Tasks kept in memory, about 7 KB each.")
    ] = 20_000,
    url_prefix: Annotated[
        str, typer.Option(envvar="FLOWER_URL_PREFIX", help="Path under which a proxy shows it.")
    ] = "",
    control: Annotated[
        bool, typer.Option("--control", envvar="RETOUCH_FLOWER_CONTROL", help="Let its pages act on workers.")
    ] = False,
) -> None:
    """Run Flower, which shows Celery's tasks. FLOWER_BASIC_AUTH=user:password must be set."""
    from infra.flower.serve import FlowerOptions  # noqa: PLC0415
    from infra.processes import run_flower  # noqa: PLC0415

    options = FlowerOptions(port, address, db=db, max_tasks=max_tasks, url_prefix=url_prefix, control=control)
    _run(lambda: run_flower(options))


def _run(run: Callable[[], int]) -> None:
    """Run a process to its end; what it cannot start for is one line."""
    from infra.processes import CannotStart, clear_errors  # noqa: PLC0415

    try:
        with clear_errors():
            status = run()
    except CannotStart as error:
        if os.environ.get("RETOUCH_DEBUG"):
            raise
        print_error(error)
        raise typer.Exit(WRONG_USAGE) from error
    raise typer.Exit(status)
