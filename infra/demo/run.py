"""`retouch demo`: starts a stack, edits real pictures, and stops the stack."""

import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.markup import escape

from infra.demo.contact_sheet import Row, write_html, write_png
from infra.demo.display import Display
from infra.demo.pictures import DemoPicture, PicturesMissing, demo_pictures
from infra.demo.stack import DemoStack
from infra.local.program import StackError
from retouch import Job
from retouch.client import Client
from retouch.commands.watch import poll
from retouch.errors import ProblemError

_SUBMIT_THREADS = 4
_SIMULATOR = "--latency-ms 1200 --latency-jitter-ms 600"
"""About the latency of the real endpoint, so that the user sees progress."""
_MAX_WAIT_S = 300
"""Jobs that have not ended by then are canceled and count as faults."""
_POLL_TIMEOUT_S = 5
_EXTENSIONS: Mapping[str, str] = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


@dataclass(frozen=True)
class DemoOptions:
    """The options of `retouch demo`.

    Attributes:
        data_dir: data directory of the stack; the results are written to its folder `demo`.
        config: path of a `retouch.toml`; None uses the same file as `retouch up`.
    """

    data_dir: Path = Path(".retouch")
    config: Path | None = None


@dataclass(frozen=True)
class Edit:
    """A picture of the demo, its job and its result. `fault` describes an unexpected outcome; "" if there is none."""

    picture: DemoPicture
    data: bytes
    job: Job
    result: bytes | None
    fault: str


def demo(options: DemoOptions) -> int:
    """Start the stack, edit the pictures, write the contact sheet, and stop the stack.

    Returns:
        The exit status: 0 only if every job ended in the expected state and every result decodes at the right size.
    """
    console = Console(highlight=False, soft_wrap=True)
    folder = options.data_dir.absolute() / "demo"
    began = time.monotonic()
    try:
        with DemoStack(options.data_dir, options.config, simulator=_SIMULATOR) as stack:
            console.print(f"The stack runs in {options.data_dir}, API at {stack.url} ({stack.started_s:.0f} s).")
            pictures = _select_pictures(demo_pictures(), stack, console)
            # Not the URL and key of the user's environment: they may belong to another service.
            with Client(stack.url, stack.api_key) as client:
                edits = _edit_all(client, pictures, folder, console, simulated=stack.simulates)
            sheet = _write_sheet(folder, edits, stack)
            status = _print_summary(console, edits, stack, folder, sheet)
    except (StackError, PicturesMissing) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"retouch demo: {error}", markup=False)
        return error.status if isinstance(error, StackError) else 1
    console.print(f"\nThe stack has stopped. The demo took {time.monotonic() - began:.0f} s.")
    return status


def _select_pictures(pictures: list[DemoPicture], stack: DemoStack, console: Console) -> list[DemoPicture]:
    if stack.simulates:
        console.print("Edits go to the SIMULATOR: no STEP_API_KEY is set. Its results are drawn, not generated.")
        return pictures
    ordinary = [picture for picture in pictures if not picture.directive]
    console.print(
        f"Edits go to the REAL endpoint ({stack.endpoint}). The demo skips the pictures for a refusal and a retry, "
        f"because only the simulator fails on demand. It edits {len(ordinary)} pictures, which are billed."
    )
    return ordinary


def _edit_all(
    client: Client, pictures: Sequence[DemoPicture], folder: Path, console: Console, *, simulated: bool
) -> list[Edit]:
    """Submit all pictures, wait for the jobs, and download and check the results."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("pictures", "results"):
        (folder / part).mkdir(parents=True)

    def submit(picture: DemoPicture) -> tuple[bytes, Job]:
        data = picture.make()
        path = folder / "pictures" / f"{picture.name}.{picture.extension}"
        path.write_bytes(data)
        return data, client.submit(
            path, prompt=_prompt(picture), custom_id=picture.name, metadata={"made_by": "retouch demo"}
        )

    with Display(console, {picture.name: _prompt(picture) for picture in pictures}) as display:
        jobs: dict[str, Job] = {}
        inputs: dict[str, bytes] = {}
        with ThreadPoolExecutor(_SUBMIT_THREADS) as pool:
            for data, job in pool.map(submit, pictures):
                jobs[job.id], inputs[job.id] = job, data
                display.show(job)
        parked = _wait_for_jobs(client, jobs, display)
    if parked:
        console.print(f"[red]Stopped early:[/red] {escape(parked)}")
    keeps_size = {model.name for model in client.models() if simulated or model.dialect == "stepfun"}
    edits = []
    for picture, job in zip(pictures, jobs.values(), strict=True):
        result = None
        if job.output:
            path = folder / "results" / f"{picture.name}.{_EXTENSIONS.get(job.output.media_type, 'bin')}"
            result = client.download_output(job, path).read_bytes()
        fault = _fault(picture, job, inputs[job.id], result, same_size=job.model in keeps_size)
        edits.append(Edit(picture, inputs[job.id], job, result, fault))
    return edits


def _wait_for_jobs(client: Client, jobs: dict[str, Job], display: Display) -> str:
    """Wait until all jobs have ended. If their model is parked, cancel them and return the reason, else ""."""
    deadline = time.monotonic() + _MAX_WAIT_S
    parked = ""
    while not parked and time.monotonic() < deadline:
        poll(client, jobs, display.show, timeout_s=_POLL_TIMEOUT_S)
        unfinished = {job.model for job in jobs.values() if not job.final}
        if not unfinished:
            return ""
        models = [model for model in client.models() if model.name in unfinished and model.parked]
        parked = "; ".join(f"model {model.name} is parked: {model.parked_reason}" for model in models)
    for job in [job for job in jobs.values() if not job.final]:
        # Otherwise they would be edited and billed when the stack runs the next time.
        with suppress(ProblemError):
            jobs[job.id] = client.cancel(job.id)
            display.show(jobs[job.id])
    return parked


def _prompt(picture: DemoPicture) -> str:
    return f"{picture.prompt} {picture.directive}".strip()


def _fault(picture: DemoPicture, job: Job, data: bytes, result: bytes | None, *, same_size: bool) -> str:
    """Describe how the outcome differs from the expected one; "" if it does not."""
    if job.state != picture.state:
        reason = f" ({job.error.code}: {job.error.message})" if job.error else ""
        return f"is {job.state}{reason}, should be {picture.state}"
    if len(job.attempts) < picture.attempts:
        return f"had {len(job.attempts)} attempts, expected at least {picture.attempts}"
    if (result is not None) is not (picture.state == "succeeded"):
        return "has no result" if result is None else "has an unexpected result"
    return _result_fault(data, result, same_size=same_size) if result is not None else ""


def _result_fault(data: bytes, result: bytes, *, same_size: bool) -> str:
    try:
        with Image.open(BytesIO(result)) as edited, Image.open(BytesIO(data)) as original:
            edited.load()
            if same_size and edited.size != original.size:
                return f"has a result of {edited.width}x{edited.height}, not {original.width}x{original.height}"
    except OSError as error:
        return f"has a result that does not decode: {error}"
    return ""


def _write_sheet(folder: Path, edits: Sequence[Edit], stack: DemoStack) -> Path:
    rows = [_row(edit) for edit in edits]
    states = [edit.job.state for edit in edits]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    endpoint = "simulator" if stack.simulates else "real endpoint"
    title = f"Retouch: {len(edits)} edits"
    subtitle = f"{counts} · {endpoint} · {datetime.now().astimezone():%d %B %Y, %H:%M}"
    write_html(folder / "contact-sheet.html", rows, title=title, subtitle=subtitle)
    write_png(folder / "contact-sheet.png", rows, title=title, subtitle=subtitle)
    return folder / "contact-sheet.html"


def _row(edit: Edit) -> Row:
    job = edit.job
    form = {"jpg": "JPEG"}.get(edit.picture.extension, edit.picture.extension.upper())
    with Image.open(BytesIO(edit.data)) as picture:
        about = f"{form} {picture.width}x{picture.height}"
    if job.error:
        note = job.error.message
    else:
        earlier = [attempt.message or attempt.outcome for attempt in job.attempts[:-1]]
        note = f"previous attempt: {earlier[-1]}" if earlier else ""
    return Row(
        name=edit.picture.name,
        prompt=edit.picture.prompt,
        before=edit.data,
        after=edit.result,
        state=job.state,
        attempts=len(job.attempts),
        took_s=job.took_s,
        about=about,
        note=note,
    )


def _print_summary(console: Console, edits: Sequence[Edit], stack: DemoStack, folder: Path, sheet: Path) -> int:
    faults = [edit for edit in edits if edit.fault]
    cost = sum(edit.job.cost_usd for edit in edits)
    price = "the simulator bills nothing" if stack.simulates else f"cost: about ${cost:.3f}"
    console.print(f"\n{len(edits) - len(faults)} of {len(edits)} edits ended as expected; {price}.")
    for edit in faults:
        console.print(f"  [red]{edit.picture.name}[/red] {escape(edit.fault)}")
    console.print()
    _print_locations(
        console, {"contact sheet": f"{sheet.as_uri()}, with a PNG beside it", "results": str(folder / "results")}
    )
    command = f"`retouch up --data-dir {stack.data_dir}`"
    if stack.data_dir == Path(".retouch").absolute():
        command = "`make up` (or `retouch up`)"
    console.print(f"\nThe stack stops now. {command} starts it again with these jobs:")
    environment = stack.environment
    _print_locations(
        console,
        {
            "bucket": f"s3://{environment['RETOUCH_S3_BUCKET']} at {environment['RETOUCH_S3_ENDPOINT_URL']}",
            "Flower": f"{environment['FLOWER_URL']} (user and password: {stack.data_dir / 'local.env'})",
            "API docs": f"{stack.url}/docs; after the next start http://127.0.0.1:8000/docs",
        },
    )
    return 1 if faults else 0


def _print_locations(console: Console, locations: Mapping[str, str]) -> None:
    for name, location in locations.items():
        console.print(f"  {name:15}{location}", markup=False)
