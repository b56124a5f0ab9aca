"""`approve`, `pause`, `resume`, `results`, `download`; and the part of `submit` that creates batches."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from retouch.atomic_file import write_atomically
from retouch.client import Client, is_url
from retouch.commands.batch_display import follow, print_batch, print_batches, status_of
from retouch.commands.output import DONE, SOME_FAILED, err, plain, print_error, print_json, wrong_usage
from retouch.commands.show_list import AsJson
from retouch.downloading import Fetched, download, write_sheet
from retouch.records import Batch
from retouch.uploading import Uploads

MANIFESTS = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".xlsx"})
BatchId = Annotated[str, typer.Argument(metavar="BATCH", help="Id of a batch (bat_…).")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(approve)
    app.command()(pause)
    app.command()(resume)
    app.command()(results)
    app.command("download")(download_batch)


def is_batch(resource_id: str) -> bool:
    """Whether an id is the id of a batch."""
    return resource_id.startswith("bat_")


def is_manifest(image: str) -> bool:
    """Whether an argument of `submit` is a manifest and not an image."""
    path = urlsplit(image).path if is_url(image) else image
    return PurePosixPath(path).suffix.lower() in MANIFESTS or (image.startswith("s3://") and image.endswith("/"))


def submit_manifest(manifest: str, fields: Mapping[str, Any], *, watch: bool, as_json: bool) -> NoReturn:
    """Submit a manifest as a batch, and exit."""
    if not is_url(manifest) and not Path(manifest).is_file():
        wrong_usage(f"{manifest}: no such file")
    with Client() as client:
        batch = client.batches.submit(manifest, **fields)
        _show_and_exit(client, batch, watch=watch, as_json=as_json)


def submit_images(images: Sequence[str], fields: Mapping[str, Any], *, watch: bool, again: bool, as_json: bool) -> None:
    """Upload local images and submit them as a batch, and exit. The file names become the `custom_id`s.

    A repeated command continues an interrupted upload, or shows the batch that exists already.
    """
    files = [Path(image) for image in images]
    for file in files:
        if not file.is_file():
            wrong_usage(f"{file}: {'is a directory' if file.is_dir() else 'no such file'}")
    names = [file.name for file in files]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        wrong_usage(f"two files are named {plain(duplicates[0])}: the file names become custom_ids and must be unique")
    with Client() as client:
        uploads = Uploads(client.url, files, fields, fresh=again)
        if uploads.batch_id is not None:
            err().print(
                f"these files were already submitted as {uploads.batch_id}; add --again to submit them again",
                markup=False,
            )
            batch = client.batches.get(uploads.batch_id)
        else:
            items = _upload(client, uploads, len(files))
            batch = client.batches.submit(items=items, idempotency_key=None if again else uploads.digest, **fields)
            uploads.submitted(batch.id)
        _show_and_exit(client, batch, watch=watch, as_json=as_json)


def _upload(client: Client, uploads: Uploads, total: int) -> list[dict[str, str]]:
    console = err()
    if not console.is_terminal:
        items = uploads.run(client, lambda _: None)
        console.print(f"{total} images uploaded", markup=False)
        return items
    with Progress(TextColumn("uploading"), BarColumn(), MofNCompleteColumn(), console=console) as bar:
        task = bar.add_task("uploading", total=total)
        return uploads.run(client, lambda _: bar.advance(task))


def _show_and_exit(client: Client, batch: Batch, *, watch: bool, as_json: bool) -> NoReturn:
    """Follow the batch if requested, print it, and exit."""
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
    negative_prompt: Annotated[str | None, typer.Option(help="Content that must not appear in the results.")] = None,
    seed: Annotated[int | None, typer.Option(help="A new seed for the rest.")] = None,
    steps: Annotated[int | None, typer.Option(help="A new number of inference steps for the rest.")] = None,
    cfg_scale: Annotated[float | None, typer.Option(help="How closely the result follows the prompt.")] = None,
    text_mode: Annotated[
        bool | None, typer.Option("--text-mode/--no-text-mode", help="A mode for text in images.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="A new size of the results, such as 1024x1024.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the batch until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Approve a batch after its trial: edit the rest, optionally with new parameters."""
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
        _show_and_exit(client, client.batches.approve(batch_id, **changes), watch=watch, as_json=as_json)


def pause(batch_id: BatchId, as_json: AsJson = False) -> None:
    """Pause a batch: start no more jobs. Running jobs finish."""
    _check_batch(batch_id)
    with Client() as client:
        print_batch(client.batches.pause(batch_id), as_json=as_json)


def resume(
    batch_id: BatchId,
    *,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", help="A new budget of the batch in US dollars.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the batch until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Resume a paused batch."""
    _check_batch(batch_id)
    with Client() as client:
        _show_and_exit(client, client.batches.resume(batch_id, budget_usd=budget), watch=watch, as_json=as_json)


def results(
    batch_id: BatchId,
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The file to write. Default: stdout.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="jsonl or csv. Default: from FILE's name, else jsonl; csv for --rejects."),
    ] = None,
    state: Annotated[str | None, typer.Option(help="Only items in this state; `rejected` means rejected rows.")] = None,
    rejects: Annotated[
        bool, typer.Option("--rejects", help="Write the rejected rows, to correct and submit again.")
    ] = False,
    archive: Annotated[bool, typer.Option("--archive", help="Write the images as a ZIP file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a batch's results: one row per item, in manifest order."""
    _check_batch(batch_id)
    if form not in {None, "jsonl", "csv"}:
        wrong_usage(f"--format must be jsonl or csv, not {form!r}")
    if rejects and archive:
        wrong_usage("use either --rejects or --archive")
    what = "rejects" if rejects else "archive.zip" if archive else "results"
    file_format = form or ("jsonl" if as_json or output is None or output.suffix != ".csv" else "csv")
    if rejects and form is None and not as_json:
        file_format = "csv"
    with Client() as client:
        batch = client.batches.get(batch_id)
        query = {"form": None if archive else file_format, "state": None if archive or rejects else state}
        if output is None:
            client.batches.write(batch_id, what, sys.stdout.buffer, **query)
            sys.stdout.flush()
        else:
            with write_atomically(output) as file:
                client.batches.write(batch_id, what, file, **query)
            err().print(f"{batch_id} -> {plain(output)}", markup=False)
    raise typer.Exit(SOME_FAILED if batch.ended and status_of(batch) else DONE)


def download_batch(
    batch_id: BatchId,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The target directory; created if it is missing.")],
    *,
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Also write a contact sheet with images before and after.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Download a batch's images in parallel and check them. Complete files are not downloaded again."""
    _check_batch(batch_id)
    with Client() as client:
        total = client.batches.get(batch_id).counts.succeeded
        images = _download(client, batch_id, directory, total)
        page = write_sheet(client, batch_id, directory, images) if sheet else None
    failed = sum(image.error is not None for image in images)
    summary = {
        "directory": str(directory),
        "fetched": sum(not image.existed and image.error is None for image in images),
        "there_already": sum(image.existed for image in images),
        "failed": failed,
        "sheet": str(page) if page else None,
    }
    if as_json:
        print_json(summary)
    else:
        err().print(
            f"{summary['fetched']} downloaded, {summary['there_already']} already complete, {failed} failed: "
            f"{plain(page or directory)}",
            markup=False,
        )
    raise typer.Exit(SOME_FAILED if failed else DONE)


def _download(client: Client, batch_id: str, directory: Path, total: int) -> list[Fetched]:
    console = err()

    def report(image: Fetched) -> None:
        if image.error is not None:
            print_error(f"{image.path}: {image.error}")

    if not console.is_terminal:
        return download(client, batch_id, directory, report)
    with Progress(TextColumn("images"), BarColumn(), MofNCompleteColumn(), console=console) as bar:
        task = bar.add_task("images", total=total)

        def show(image: Fetched) -> None:
            bar.advance(task)
            report(image)

        return download(client, batch_id, directory, show)


def _check_batch(batch_id: str) -> None:
    if not is_batch(batch_id):
        wrong_usage(f"{batch_id} is not the id of a batch: such ids begin with bat_")
