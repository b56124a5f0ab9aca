"""`approve`, `pause`, `resume`, `results`, `download`: batches alone; and how `submit` makes one."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from retouch.client import Client, is_address
from retouch.commands.batch_display import follow, print_batch, print_batches, status_of
from retouch.commands.console import DONE, SOME_FAILED, complain, err, exit_status, plain, print_json, wrong_usage
from retouch.commands.reading import AsJson
from retouch.downloading import Fetched, download, write_sheet
from retouch.errors import ProblemError
from retouch.records import Batch
from retouch.uploading import Uploads

MANIFESTS = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".xlsx"})
BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="Id of a batch.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(approve)
    app.command()(pause)
    app.command()(resume)
    app.command()(results)
    app.command("download")(download_batch)


def is_batch(thing_id: str) -> bool:
    """Whether an id is a batch's."""
    return thing_id.startswith("bat_")


def is_manifest(image: str) -> bool:
    """Whether an argument of `submit` names rows, not a picture."""
    path = urlsplit(image).path if is_address(image) else image
    return PurePosixPath(path).suffix.lower() in MANIFESTS or (image.startswith("s3://") and image.endswith("/"))


def submit_manifest(manifest: str, fields: Mapping[str, Any], *, watch: bool, as_json: bool) -> None:
    """Submit a manifest as a batch; ends the command."""
    if not is_address(manifest) and not Path(manifest).is_file():
        wrong_usage(f"{manifest}: no such file")
    with Client() as client:
        batch = client.batches.submit(manifest, **fields)
        _submitted(client, batch, watch=watch, as_json=as_json)


def submit_pictures(
    images: Sequence[str], fields: Mapping[str, Any], *, watch: bool, again: bool, as_json: bool
) -> None:
    """Upload local pictures and submit them as a batch, named by their files; ends the command.

    The same command goes on where it was interrupted, and shows the batch where it was done.
    """
    files = [Path(image) for image in images]
    for file in files:
        if not file.is_file():
            wrong_usage(f"{file}: {'is a directory' if file.is_dir() else 'no such file'}")
    names = [file.name for file in files]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        wrong_usage(f"{plain(twins[0])} is there twice: the file names are the items' names")
    with Client() as client:
        uploads = Uploads(client.url, files, fields, fresh=again)
        if uploads.batch_id is not None:
            err().print(
                f"these files were submitted before as {uploads.batch_id}; --again submits them anew", markup=False
            )
            batch = client.batches.get(uploads.batch_id)
        else:
            items = _upload(client, uploads, len(files))
            batch = client.batches.submit(items=items, idempotency_key=None if again else uploads.digest, **fields)
            uploads.submitted(batch.id)
        _submitted(client, batch, watch=watch, as_json=as_json)


def _upload(client: Client, uploads: Uploads, total: int) -> list[dict[str, str]]:
    console = err()
    if not console.is_terminal:
        items = uploads.run(client, lambda _: None)
        console.print(f"{total} pictures uploaded", markup=False)
        return items
    with Progress(TextColumn("uploading"), BarColumn(), MofNCompleteColumn(), console=console) as bar:
        task = bar.add_task("uploading", total=total)
        return uploads.run(client, lambda _: bar.advance(task))


def _submitted(client: Client, batch: Batch, *, watch: bool, as_json: bool) -> None:
    status = DONE
    if watch:
        err().print(batch.id, markup=False)
        batch = follow(client, batch.id)
        status = status_of(batch)
    if as_json:
        print_json(batch.model_dump(mode="json"))
    elif watch:
        print_batch(batch, as_json=False)
    else:
        print_batches([batch], as_json=False)
    raise typer.Exit(status)


def approve(
    batch_id: BatchId,
    *,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="A new prompt for the rest.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the results shall not show.")] = None,
    seed: Annotated[int | None, typer.Option(help="For all of the rest.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the model.")] = None,
    cfg_scale: Annotated[float | None, typer.Option(help="How closely the prompt is followed.")] = None,
    text_mode: Annotated[bool | None, typer.Option("--text-mode/--no-text-mode", help="For text in pictures.")] = None,
    size: Annotated[str | None, typer.Option(help="Of the results.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let the rest of a batch be edited after its trial, with changes where some are given."""
    changes = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "steps": steps,
        "cfg_scale": cfg_scale,
        "text_mode": text_mode,
        "size": size,
    }
    _check_batch(batch_id)
    with Client() as client:
        _submitted(client, client.batches.approve(batch_id, **changes), watch=watch, as_json=as_json)


def pause(batch_id: BatchId, as_json: AsJson = False) -> None:
    """Start nothing more of a batch; what runs goes on."""
    _check_batch(batch_id)
    with Client() as client:
        print_batch(client.batches.pause(batch_id), as_json=as_json)


def resume(
    batch_id: BatchId,
    *,
    budget: Annotated[float | None, typer.Option(metavar="USD", help="A new budget.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a paused batch."""
    _check_batch(batch_id)
    with Client() as client:
        _submitted(client, client.batches.resume(batch_id, budget_usd=budget), watch=watch, as_json=as_json)


def results(
    batch_id: BatchId,
    *,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="stdout if absent.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="jsonl or csv; from FILE's name if absent.")] = None,
    state: Annotated[str | None, typer.Option(help="Only items in this state; `rejected` for refused rows.")] = None,
    rejects: Annotated[bool, typer.Option("--rejects", help="The refused rows, to mend and submit again.")] = False,
    archive: Annotated[bool, typer.Option("--archive", help="The pictures, as one ZIP.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a batch's results: a row an item, in manifest order."""
    _check_batch(batch_id)
    if form not in {None, "jsonl", "csv"}:
        wrong_usage(f"--format is jsonl or csv, not {form!r}")
    if rejects and archive:
        wrong_usage("--rejects or --archive, not both")
    what = "rejects" if rejects else "archive.zip" if archive else "results"
    chosen = form or ("jsonl" if as_json or output is None or output.suffix != ".csv" else "csv")
    if rejects and form is None and not as_json:
        chosen = "csv"
    with Client() as client:
        batch = client.batches.get(batch_id)
        said = {"form": None if archive else chosen, "state": None if archive or rejects else state}
        if output is None:
            client.batches.write(batch_id, what, sys.stdout.buffer, **said)
            sys.stdout.flush()
        else:
            part = output.with_name(f".{output.name}.part")
            try:
                with part.open("wb") as file:
                    client.batches.write(batch_id, what, file, **said)
                part.replace(output)
            finally:
                part.unlink(missing_ok=True)
            err().print(f"{batch_id} -> {plain(output)}", markup=False)
    raise typer.Exit(SOME_FAILED if batch.ended and status_of(batch) else DONE)


def download_batch(
    batch_id: BatchId,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made where it is missing.")],
    *,
    sheet: Annotated[bool, typer.Option("--sheet", help="A contact sheet, too: before and after.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a batch's pictures, in parallel and checked; what is there already is not fetched again."""
    _check_batch(batch_id)
    with Client() as client:
        total = client.batches.get(batch_id).counts.succeeded
        found = _download(client, batch_id, directory, total)
        page = write_sheet(client, batch_id, directory, found) if sheet else None
    failed = [one for one in found if one.error is not None]
    told = {
        "directory": str(directory),
        "fetched": sum(not one.was_there and one.error is None for one in found),
        "there_already": sum(one.was_there for one in found),
        "failed": len(failed),
        "sheet": str(page) if page else None,
    }
    if as_json:
        print_json(told)
    else:
        err().print(
            f"{told['fetched']} fetched, {told['there_already']} there already, {told['failed']} failed: "
            f"{plain(page or directory)}",
            markup=False,
        )
    raise typer.Exit(SOME_FAILED if failed else DONE)


def _download(client: Client, batch_id: str, directory: Path, total: int) -> list[Fetched]:
    console = err()

    def tell(one: Fetched) -> None:
        if one.error is not None:
            complain(f"{one.path}: {one.error}")

    if not console.is_terminal:
        return download(client, batch_id, directory, tell)
    with Progress(TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), console=console) as bar:
        task = bar.add_task("pictures", total=total)

        def show(one: Fetched) -> None:
            bar.advance(task)
            tell(one)

        return download(client, batch_id, directory, show)


def act(client: Client, batch_id: str, action: str, states: Sequence[str]) -> tuple[Batch | None, int]:
    """Cancel or retry one batch among other ids; returns it, or None and the status where it refused."""
    try:
        if action == "retry":
            return client.batches.retry(batch_id, states), DONE
        return client.batches.cancel(batch_id), DONE
    except ProblemError as problem:
        if problem.status not in {404, 409}:
            raise
        complain(f"{batch_id}: {problem}")
        return None, exit_status(problem)


def _check_batch(batch_id: str) -> None:
    if not is_batch(batch_id):
        wrong_usage(f"{batch_id} is no batch: its id begins with bat_")
