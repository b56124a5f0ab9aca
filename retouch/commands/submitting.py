"""`submit`: one edit, several of the same kind, or a batch."""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from retouch.client import Client, is_address
from retouch.commands import batches
from retouch.commands.console import (
    DONE,
    SOME_FAILED,
    complain,
    err,
    exit_status,
    plain,
    print_jobs,
    wrong_usage,
)
from retouch.commands.following import follow
from retouch.commands.reading import AsJson, status_of
from retouch.errors import Damaged, NoOutput, ProblemError, RetouchError, Unreachable
from retouch.records import Job

_AT_ONCE = 4
"""Pictures in the air: enough to hide an upload's latency."""
_EXTENSIONS: Mapping[str, str] = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


class PriorityChoice(StrEnum):
    """A job's priority."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(submit)


def submit(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE…|MANIFEST", help="Files, https:// and s3:// addresses; or a CSV, JSONL, XLSX."),
    ],
    *,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="What the edit shall be.")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait until all have ended.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE|DIR", help="With --wait: where the results go."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model's name; the service's default if absent.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed asks for the same picture.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the model.")] = None,
    cfg_scale: Annotated[float | None, typer.Option(help="How closely the prompt is followed.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the result shall not show.")] = None,
    text_mode: Annotated[bool | None, typer.Option("--text-mode/--no-text-mode", help="For text in pictures.")] = None,
    size: Annotated[str | None, typer.Option(help="Of the result, for models that take it.")] = None,
    custom_id: Annotated[str | None, typer.Option(help="Your name for it (an SKU); one image only.")] = None,
    priority: Annotated[PriorityChoice | None, typer.Option(help="Among your own jobs.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="May be repeated.")] = None,
    not_before: Annotated[datetime | None, typer.Option(help="Do not start earlier (local time).")] = None,
    deadline_s: Annotated[float | None, typer.Option(help="Fail if it has not ended after so many seconds.")] = None,
    output_key: Annotated[
        str | None, typer.Option(help="Where in the bucket: a template of {custom_id}, {job_id}, {batch_id}, {ext}.")
    ] = None,
    webhook_url: Annotated[str | None, typer.Option(help="Told, signed, when it has ended.")] = None,
    reuse: Annotated[bool | None, typer.Option("--reuse/--no-reuse", help="Take an equal edit's result.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Submits once, however often; one image only.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the batch.")] = None,
    trial: Annotated[int | None, typer.Option(min=1, help="Edit so many first; the rest waits for `approve`.")] = None,
    trial_sample: Annotated[str | None, typer.Option(help="Of the trial: first or random.")] = None,
    budget: Annotated[float | None, typer.Option(metavar="USD", help="The batch pauses before it costs more.")] = None,
    sheet: Annotated[bool, typer.Option("--sheet", help="Let the workers make a contact sheet of the batch.")] = False,
    supersede: Annotated[
        bool,
        typer.Option("--supersede", help="Of the batch: what waits under its names gives way, results are versions."),
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the batch: rate, time left, failures.")] = False,
    batch: Annotated[
        bool | None, typer.Option("--batch/--no-batch", help="A batch, or single jobs; several files are a batch.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Submit files anew that were submitted before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit edits: an image becomes a job; several files, or a manifest's rows, become a batch.

    The same command over the same files goes on where it was interrupted.
    """
    fields: dict[str, Any] = {
        "prompt": prompt,
        "model": model,
        "seed": seed,
        "steps": steps,
        "cfg_scale": cfg_scale,
        "negative_prompt": negative_prompt,
        "text_mode": text_mode,
        "size": size,
        "priority": priority.value if priority else None,
        "metadata": _pairs(metadata or []) or None,
        "not_before": not_before.astimezone().isoformat() if not_before else None,
        "deadline_s": deadline_s,
        "output_key": output_key,
        "webhook_url": webhook_url,
        "reuse": reuse,
    }
    if batch is None:
        single = wait or output or custom_id or idempotency_key
        batch = batches.is_manifest(images[0]) or watch or trial is not None or budget is not None
        batch = batch or (len(images) > 1 and not single and not any(map(is_address, images)))
    if prompt is None and not (batch and batches.is_manifest(images[0])):
        wrong_usage("--prompt is missing: say what the edit shall be")
    if batch:
        if wait or output or custom_id or idempotency_key:
            wrong_usage("--wait, -o, --custom-id and --idempotency-key are for single images; a batch takes --watch")
        shared = {"defaults": {"metadata": fields.pop("metadata")}} if fields["metadata"] else {}
        options = {
            **fields,
            **shared,
            "name": name,
            "trial": trial,
            "trial_sample": trial_sample,
            "budget_usd": budget,
            "sheet": sheet or None,
            "supersede": supersede or None,
        }
        if batches.is_manifest(images[0]):
            if len(images) > 1:
                wrong_usage("one manifest at a time, and no pictures beside it")
            batches.submit_manifest(images[0], options, watch=watch, as_json=as_json)
        batches.submit_pictures(images, options, watch=watch, again=again, as_json=as_json)
    _check(images, wait=wait, output=output, single={"--custom-id": custom_id, "--idempotency-key": idempotency_key})
    fields |= {"custom_id": custom_id, "idempotency_key": idempotency_key}
    with Client() as client:
        jobs: dict[str, Job] = {}
        names: dict[str, str] = {}
        refused: list[RetouchError] = []
        for image, answer in _submit_all(client, images, fields):
            if isinstance(answer, Job):
                jobs[answer.id], names[answer.id] = answer, image
                for warning in answer.warnings:
                    err().print(f"warning: {shown(image)}: {plain(warning)}", markup=False)
            else:
                refused.append(answer)
                complain(f"{shown(image)}: {answer}")
        status = _status_of_refusals(refused, submitted=bool(jobs))
        if wait and jobs:
            keeper = Keeper(client, output, names) if output else None
            jobs = follow(client, jobs, {key: shown(name) for key, name in names.items()}, on_final=keeper)
            status = max(status, status_of(list(jobs.values())), keeper.status if keeper else DONE)
    print_jobs(jobs.values(), as_json=as_json)
    raise typer.Exit(status)


def _check(images: list[str], *, wait: bool, output: Path | None, single: Mapping[str, str | None]) -> None:
    """Refuse what cannot be meant before anything is submitted."""
    if output and not wait:
        wrong_usage("-o takes the results, and there are none before the end: add --wait")
    if len(images) > 1:
        for option, value in single.items():
            if value is not None:
                wrong_usage(f"{option} names one job, and there are {len(images)} images")
        if output and output.exists() and not output.is_dir():
            wrong_usage(f"-o {output} is a file, and there are {len(images)} images: name a directory")
    for image in images:
        if not is_address(image) and not Path(image).is_file():
            wrong_usage(f"{image}: {'is a directory' if Path(image).is_dir() else 'no such file'}")


def _pairs(entries: list[str]) -> dict[str, str]:
    pairs = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            wrong_usage(f"--metadata takes NAME=VALUE, not {entry!r}")
        pairs[name] = value
    return pairs


def _submit_all(
    client: Client, images: list[str], fields: Mapping[str, Any]
) -> Iterator[tuple[str, Job | ProblemError]]:
    """Submit each in order; a refusal of one is handed on, what concerns all ends it."""

    def one(image: str) -> Job | ProblemError:
        try:
            return client.submit(image, **fields)
        except ProblemError as problem:
            if problem.status not in {400, 409, 413, 415, 422}:
                raise
            return problem

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            yield from zip(images, pool.map(one, images), strict=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _status_of_refusals(refused: list[RetouchError], *, submitted: bool) -> int:
    if not refused:
        return DONE
    return SOME_FAILED if submitted else max(exit_status(error) for error in refused)


class Keeper:
    """Writes results where `-o` says, each as soon as it is there."""

    def __init__(self, client: Client, output: Path, names: Mapping[str, str]) -> None:
        self._client = client
        self._output = output
        self._names = names
        self._taken: set[Path] = set()
        self._is_folder = len(names) > 1 or output.is_dir() or str(output).endswith("/")
        self.status = DONE
        (output if self._is_folder else output.parent).mkdir(parents=True, exist_ok=True)

    def __call__(self, job: Job) -> None:
        """Keep this job's result, if it has one; a fault is told and does not stop the others."""
        if job.output is None:
            return
        path = self._path(job) if self._is_folder else self._output
        self._taken.add(path)
        try:
            self._client.download_output(job, path)
        except (Damaged, NoOutput, Unreachable, OSError) as error:
            complain(f"{path}: {error}")
            self.status = max(self.status, SOME_FAILED)
        else:
            err().print(f"{job.id} -> {plain(path)}", markup=False)

    def _path(self, job: Job) -> Path:
        extension = _EXTENSIONS.get(job.output.media_type if job.output else "", "bin")
        stem = stem_of(self._names[job.id]) or job.id
        path = self._output / f"{stem}.{extension}"
        return path if path not in self._taken else self._output / f"{stem}-{job.id}.{extension}"


def shown(image: str) -> str:
    """An image's name for people; the bytes in a `data:` address say nothing to them."""
    return f"{image.partition(',')[0][:40]},…" if image.startswith("data:") else image


def stem_of(image: str) -> str:
    """The file name's stem of a path or address, safe to write; "" if it has none."""
    if image.startswith("data:"):
        return ""
    name = PurePosixPath(unquote(urlsplit(image).path)).name if is_address(image) else Path(image).name
    return re.sub(r"[^\w.-]", "_", PurePosixPath(name).stem).lstrip(".")
