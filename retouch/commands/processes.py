"""`up`, `demo`, `api`, `worker`, `flower`: start processes. Each command imports the packages that it needs."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from retouch.commands.output import WRONG_USAGE, print_error

DataDir = Annotated[Path, typer.Option(help="Data directory of the embedded servers.")]
Config = Annotated[Path | None, typer.Option(help="The model catalogue, retouch.toml. Default: RETOUCH_CONFIG.")]
FreePort = Annotated[int, typer.Option(help="0 means the port of the last run, or any free port.")]


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
    workers: Annotated[int, typer.Option(help="Number of worker processes for edits.")] = 1,
    concurrency: Annotated[int, typer.Option(help="Concurrent edits of each such process.")] = 64,
    config: Config = None,
    flower: Annotated[bool, typer.Option("--flower/--no-flower", help="Also run Flower.")] = True,
    redis_port: FreePort = 0,
    s3_port: FreePort = 0,
    flower_port: FreePort = 0,
    simulator_port: FreePort = 0,
    simulator: Annotated[
        str, typer.Option(metavar="ARGUMENTS", help="Options of the simulator, such as '--latency-ms 2000 --rpm 100'.")
    ] = "",
) -> None:
    """Run the whole stack in the foreground, on loopback; Ctrl-C drains and stops it."""
    from infra.local.up import UpOptions  # noqa: PLC0415
    from infra.local.up import up as run  # noqa: PLC0415

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
    """Start the whole stack, edit a dozen images, write a contact sheet, and stop."""
    from infra.demo.run import DemoOptions  # noqa: PLC0415
    from infra.demo.run import demo as run  # noqa: PLC0415

    _run(lambda: run(DemoOptions(data_dir=data_dir, config=config)))


def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Run one API process."""
    from infra.local.processes import run_api  # noqa: PLC0415

    _run(lambda: run_api(host, port))


def worker(
    queues: Annotated[
        str, typer.Option(help="Comma-separated queues: edits, webhooks, ingest.")
    ] = "edits,webhooks,ingest",
    concurrency: Annotated[int, typer.Option(min=1, help="Number of concurrent jobs.")] = 64,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for running jobs to finish after a stop signal.")] = 60,
    name: Annotated[
        str | None, typer.Option(help="A name that is unique in the fleet. Default: derived from the host name.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port for metrics. Default: RETOUCH_METRICS_PORT, else no metrics."),
    ] = None,
) -> None:
    """Run one worker process."""
    from infra.local.processes import run_worker  # noqa: PLC0415

    queue_names = [queue.strip() for queue in queues.split(",") if queue.strip()]
    _run(lambda: run_worker(queue_names, concurrency, grace, name, metrics_port=metrics_port))


def flower(
    *,
    address: Annotated[str, typer.Option(envvar="FLOWER_ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, envvar="FLOWER_PORT", help="Port to listen on.")] = 5555,
    db: Annotated[
        Path | None,
        typer.Option(envvar="FLOWER_DB", help="Save the history in this file, so that it survives restarts."),
    ] = None,
    max_tasks: Annotated[
        int, typer.Option(min=1, envvar="FLOWER_MAX_TASKS", help="Maximum tasks in memory, about 7 KB each.")
    ] = 20_000,
    url_prefix: Annotated[str, typer.Option(envvar="FLOWER_URL_PREFIX", help="URL path prefix behind a proxy.")] = "",
    control: Annotated[
        bool,
        typer.Option("--control", envvar="RETOUCH_FLOWER_CONTROL", help="Allow Flower's pages to control workers."),
    ] = False,
) -> None:
    """Run Flower, a monitor for Celery tasks. Needs FLOWER_BASIC_AUTH=user:password."""
    from infra.flower.serve import FlowerOptions  # noqa: PLC0415
    from infra.local.processes import run_flower  # noqa: PLC0415

    options = FlowerOptions(port, address, db=db, max_tasks=max_tasks, url_prefix=url_prefix, control=control)
    _run(lambda: run_flower(options))


def _run(run: Callable[[], int]) -> None:
    """Run a process until it ends, and exit. A failed start is printed in one line."""
    from infra.local.processes import CannotStart, clear_errors  # noqa: PLC0415

    try:
        with clear_errors():
            status = run()
    except CannotStart as error:
        if os.environ.get("RETOUCH_DEBUG"):
            raise
        print_error(error)
        raise typer.Exit(WRONG_USAGE) from error
    raise typer.Exit(status)
