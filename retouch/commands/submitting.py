"""`submit`: one edit, several of the same kind, or a batch."""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import typer

from retouch.client import Client, is_url
from retouch.commands import batches
from retouch.commands import submit_options as options
from retouch.commands.output import (
    DONE,
    SOME_FAILED,
    err,
    exit_status,
    plain,
    print_error,
    print_jobs,
    wrong_usage,
)
from retouch.commands.show_list import AsJson, status_of
from retouch.commands.watch import follow
from retouch.errors import Damaged, NoOutput, ProblemError, RetouchError, Unreachable
from retouch.records import Job

_CONCURRENCY = 4
"""Concurrent submits: enough to hide the latency of an upload."""
_EXTENSIONS: Mapping[str, str] = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(submit)


def submit(
    images: options.Images,
    *,
    prompt: options.Prompt = None,
    wait: options.Wait = False,
    output: options.Output = None,
    model: options.Model = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    cfg_scale: options.CfgScale = None,
    negative_prompt: options.NegativePrompt = None,
    text_mode: options.TextMode = None,
    size: options.Size = None,
    custom_id: options.CustomId = None,
    priority: options.Priority = None,
    metadata: options.Metadata = None,
    not_before: options.NotBefore = None,
    deadline_s: options.Deadline = None,
    output_key: options.OutputKey = None,
    webhook_url: options.WebhookUrl = None,
    reuse: options.Reuse = None,
    idempotency_key: options.IdempotencyKey = None,
    name: options.Name = None,
    trial: options.Trial = None,
    trial_sample: options.TrialSample = None,
    budget: options.Budget = None,
    sheet: options.Sheet = False,
    supersede: options.Supersede = False,
    watch: options.Watch = False,
    batch: options.Batch = None,
    again: options.Again = False,
    as_json: AsJson = False,
) -> None:
    """Submit edits: one image becomes a job; several files or the rows of a manifest become a batch.

    A repeated command with the same files continues an interrupted upload.
    """
    fields: dict[str, Any] = {"prompt": prompt, "model": model, "negative_prompt": negative_prompt, "size": size}
    fields |= {"seed": seed, "steps": steps, "cfg_scale": cfg_scale, "text_mode": text_mode}
    fields |= {"priority": priority.value if priority else None, "metadata": _pairs(metadata or []) or None}
    fields |= {"not_before": not_before.astimezone().isoformat() if not_before else None, "deadline_s": deadline_s}
    fields |= {"output_key": output_key, "webhook_url": webhook_url, "reuse": reuse}
    batch_fields = {"name": name, "trial": trial, "trial_sample": trial_sample, "budget_usd": budget}
    batch_fields |= {"sheet": sheet or None, "supersede": supersede or None}
    single_fields = {"custom_id": custom_id, "idempotency_key": idempotency_key}
    has_single_options = bool(wait or output or custom_id or idempotency_key)
    if batch is None:
        batch = watch or trial is not None or budget is not None or _implies_batch(images, single=has_single_options)
    if prompt is None and not (batch and batches.is_manifest(images[0])):
        wrong_usage("--prompt is missing: describe the edit")
    if batch:
        if has_single_options:
            wrong_usage("--wait, -o, --custom-id and --idempotency-key are for single images; a batch takes --watch")
        _submit_batch(images, fields, batch_fields, watch=watch, again=again, as_json=as_json)
    _check_single_images(images, single_fields, wait=wait, output=output)
    _submit_jobs(images, {**fields, **single_fields}, wait=wait, output=output, as_json=as_json)


def _implies_batch(images: list[str], *, single: bool) -> bool:
    """Whether the images make a batch if the user did not choose: a manifest, or several local files."""
    return batches.is_manifest(images[0]) or (len(images) > 1 and not single and not any(map(is_url, images)))


def _submit_batch(
    images: list[str],
    fields: dict[str, Any],
    batch_fields: Mapping[str, Any],
    *,
    watch: bool,
    again: bool,
    as_json: bool,
) -> NoReturn:
    # `metadata` at the top level would be the batch's own.
    defaults = {"defaults": {"metadata": fields.pop("metadata")}} if fields["metadata"] else {}
    fields = {**fields, **defaults, **batch_fields}
    if not batches.is_manifest(images[0]):
        batches.submit_images(images, fields, watch=watch, again=again, as_json=as_json)
    if len(images) > 1:
        wrong_usage("submit a manifest alone, without other manifests or images")
    batches.submit_manifest(images[0], fields, watch=watch, as_json=as_json)


def _check_single_images(
    images: list[str], single_fields: Mapping[str, str | None], *, wait: bool, output: Path | None
) -> None:
    """Reject contradictory options and missing files before anything is submitted."""
    if output and not wait:
        wrong_usage("-o needs --wait: the results exist only after the end")
    if len(images) > 1:
        for field, value in single_fields.items():
            if value is not None:
                wrong_usage(f"--{field.replace('_', '-')} is for one image, and there are {len(images)}")
        if output and output.exists() and not output.is_dir():
            wrong_usage(f"-o {output} is a file, but there are {len(images)} images: name a directory")
    for image in images:
        if not is_url(image) and not Path(image).is_file():
            wrong_usage(f"{image}: {'is a directory' if Path(image).is_dir() else 'no such file'}")


def _submit_jobs(
    images: list[str], fields: Mapping[str, Any], *, wait: bool, output: Path | None, as_json: bool
) -> NoReturn:
    """Submit single jobs, wait for them and download their results if requested, and exit."""
    with Client() as client:
        jobs, names, refusals = _submit_each(client, images, fields)
        status = _status_of_refusals(refusals, submitted=bool(jobs))
        if wait and jobs:
            writer = ResultWriter(client, output, names) if output else None
            display_names = {job_id: display_name(image) for job_id, image in names.items()}
            jobs = follow(client, jobs, display_names, on_final=writer)
            status = max(status, status_of(list(jobs.values())), writer.status if writer else DONE)
    print_jobs(jobs.values(), as_json=as_json)
    raise typer.Exit(status)


def _submit_each(
    client: Client, images: list[str], fields: Mapping[str, Any]
) -> tuple[dict[str, Job], dict[str, str], list[RetouchError]]:
    """Submit each image, and print warnings and refusals.

    Returns:
        The jobs by id, their images by job id, and the refusals.
    """
    jobs: dict[str, Job] = {}
    names: dict[str, str] = {}
    refusals: list[RetouchError] = []
    for image, answer in _submit_concurrently(client, images, fields):
        if isinstance(answer, Job):
            jobs[answer.id], names[answer.id] = answer, image
            for warning in answer.warnings:
                err().print(f"warning: {display_name(image)}: {plain(warning)}", markup=False)
        else:
            refusals.append(answer)
            print_error(f"{display_name(image)}: {answer}")
    return jobs, names, refusals


def _pairs(entries: list[str]) -> dict[str, str]:
    pairs = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            wrong_usage(f"--metadata takes NAME=VALUE, not {entry!r}")
        pairs[name] = value
    return pairs


def _submit_concurrently(
    client: Client, images: list[str], fields: Mapping[str, Any]
) -> Iterator[tuple[str, Job | ProblemError]]:
    """Submit the images; yields in their order. An error that concerns all images is raised."""

    def submit_image(image: str) -> Job | ProblemError:
        try:
            return client.submit(image, **fields)
        except ProblemError as problem:
            if problem.status not in {400, 409, 413, 415, 422}:
                raise
            return problem

    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        try:
            yield from zip(images, pool.map(submit_image, images), strict=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _status_of_refusals(refusals: list[RetouchError], *, submitted: bool) -> int:
    if not refusals:
        return DONE
    return SOME_FAILED if submitted else max(exit_status(error) for error in refusals)


class ResultWriter:
    """Writes each result to the target of `-o` as soon as its job ends."""

    def __init__(self, client: Client, output: Path, names: Mapping[str, str]) -> None:
        self._client = client
        self._output = output
        self._names = names
        self._written: set[Path] = set()
        self._is_folder = len(names) > 1 or output.is_dir() or str(output).endswith("/")
        self.status = DONE
        (output if self._is_folder else output.parent).mkdir(parents=True, exist_ok=True)

    def __call__(self, job: Job) -> None:
        """Download a job's result, if it has one. An error is printed and does not stop the other jobs."""
        if job.output is None:
            return
        path = self._path(job) if self._is_folder else self._output
        self._written.add(path)
        try:
            self._client.download_output(job, path)
        except (Damaged, NoOutput, Unreachable, OSError) as error:
            print_error(f"{path}: {error}")
            self.status = max(self.status, SOME_FAILED)
        else:
            err().print(f"{job.id} -> {plain(path)}", markup=False)

    def _path(self, job: Job) -> Path:
        extension = _EXTENSIONS.get(job.output.media_type if job.output else "", "bin")
        stem = stem_of(self._names[job.id]) or job.id
        path = self._output / f"{stem}.{extension}"
        return path if path not in self._written else self._output / f"{stem}-{job.id}.{extension}"


def display_name(image: str) -> str:
    """An image's name for messages. The bytes of a `data:` URL are cut."""
    return f"{image.partition(',')[0][:40]},…" if image.startswith("data:") else image


def stem_of(image: str) -> str:
    """The stem of the file name in a path or URL, as a safe file name; "" if there is no name."""
    if image.startswith("data:"):
        return ""
    name = PurePosixPath(unquote(urlsplit(image).path)).name if is_url(image) else Path(image).name
    return re.sub(r"[^\w.-]", "_", PurePosixPath(name).stem).lstrip(".")
