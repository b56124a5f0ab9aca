"""`retouch demo`: the main job on real pictures, on a stack of its own that is stopped at the end."""

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
from retouch import Client, Job, ProblemError
from retouch.commands.watch import poll

_AT_ONCE = 4
_SIMULATOR = "--latency-ms 1200 --latency-jitter-ms 600"
"""As long as the real endpoint takes, so that there is something to watch."""
_LONGEST_S = 300
"""What has not ended by then is canceled and counts as a fault."""
_LOOK_S = 5
_EXTENSIONS: Mapping[str, str] = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


@dataclass(frozen=True)
class DemoOptions:
    """What `retouch demo` is told.

    Attributes:
        data_dir: of the stack; the results go into its folder `demo`.
        config: a `retouch.toml`; None takes what `retouch up` would.
    """

    data_dir: Path = Path(".retouch")
    config: Path | None = None


@dataclass(frozen=True)
class Edit:
    """A picture of the demo and what became of it; `fault` says what is not as it must be."""

    picture: DemoPicture
    data: bytes
    job: Job
    result: bytes | None
    fault: str


def demo(options: DemoOptions) -> int:
    """Start the stack, edit the pictures, write the contact sheet, stop.

    Returns:
        The exit status: 0 only if every job ended as it had to and every result decodes at its picture's size.
    """
    console = Console(highlight=False, soft_wrap=True)
    folder = options.data_dir.absolute() / "demo"
    began = time.monotonic()
    try:
        with DemoStack(options.data_dir, options.config, simulator=_SIMULATOR) as stack:
            console.print(f"The stack runs on {options.data_dir}, API at {stack.url} ({stack.started_s:.0f} s).")
            pictures = _chosen(demo_pictures(), stack, console)
            # The stack's own access, whatever service the user's environment names.
            with Client(stack.url, stack.api_key) as client:
                edits = _edit_all(client, pictures, folder, console, simulated=stack.simulates)
            sheet = _write_sheet(folder, edits, stack)
            status = _tell(console, edits, stack, folder, sheet)
    except (StackError, PicturesMissing) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"retouch demo: {error}", markup=False)
        return error.status if isinstance(error, StackError) else 1
    console.print(f"\nThe stack is stopped; all of it took {time.monotonic() - began:.0f} s.")
    return status


def _chosen(pictures: list[DemoPicture], stack: DemoStack, console: Console) -> list[DemoPicture]:
    if stack.simulates:
        console.print("Edits go to the SIMULATOR: no STEP_API_KEY is set. Its results are drawn, not generated.")
        return pictures
    ordinary = [picture for picture in pictures if not picture.directive]
    console.print(
        f"Edits go to the REAL endpoint ({stack.endpoint}). The pictures that show a refusal and a retry are left "
        f"out, since only the simulator fails on demand: {len(ordinary)} remain, and they are billed."
    )
    return ordinary


def _edit_all(
    client: Client, pictures: Sequence[DemoPicture], folder: Path, console: Console, *, simulated: bool
) -> list[Edit]:
    """Submit all, follow them to their ends, fetch and check the results."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("pictures", "results"):
        (folder / part).mkdir(parents=True)

    def submit(picture: DemoPicture) -> tuple[bytes, Job]:
        data = picture.make()
        path = folder / "pictures" / f"{picture.name}.{picture.extension}"
        path.write_bytes(data)
        prompt = f"{picture.prompt} {picture.directive}".strip()
        return data, client.submit(path, prompt=prompt, custom_id=picture.name, metadata={"made_by": "retouch demo"})

    with Display(console, {picture.name: _about(picture) for picture in pictures}) as display:
        seen: dict[str, Job] = {}
        inputs: dict[str, bytes] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for data, job in pool.map(submit, pictures):
                seen[job.id], inputs[job.id] = job, data
                display.show(job)
        parked = _follow(client, seen, display)
    if parked:
        console.print(f"[red]Stopped early:[/red] {escape(parked)}")
    keeps_size = {model.name for model in client.models() if simulated or model.dialect == "stepfun"}
    edits = []
    for picture, job in zip(pictures, seen.values(), strict=True):
        result = None
        if job.output:
            path = folder / "results" / f"{picture.name}.{_EXTENSIONS.get(job.output.media_type, 'bin')}"
            result = client.download_output(job, path).read_bytes()
        fault = _fault(picture, job, inputs[job.id], result, same_size=job.model in keeps_size)
        edits.append(Edit(picture, inputs[job.id], job, result, fault))
    return edits


def _follow(client: Client, seen: dict[str, Job], display: Display) -> str:
    """Follow the jobs to their ends; where their model is parked, cancel them and say why it is."""
    end = time.monotonic() + _LONGEST_S
    parked = ""
    while not parked and time.monotonic() < end:
        poll(client, seen, display.show, timeout_s=_LOOK_S)
        wanted = {job.model for job in seen.values() if not job.final}
        if not wanted:
            return ""
        models = [model for model in client.models() if model.name in wanted and model.parked]
        parked = "; ".join(f"model {model.name} is parked: {model.parked_reason}" for model in models)
    for job in [job for job in seen.values() if not job.final]:
        # Left alone, they would be edited, and billed, when the stack runs again.
        with suppress(ProblemError):
            seen[job.id] = client.cancel(job.id)
            display.show(seen[job.id])
    return parked


def _about(picture: DemoPicture) -> str:
    return picture.prompt + (f" {picture.directive}" if picture.directive else "")


def _fault(picture: DemoPicture, job: Job, data: bytes, result: bytes | None, *, same_size: bool) -> str:
    """What is not as it must be; "" if nothing."""
    if job.state != picture.state:
        why = f" ({job.error.code}: {job.error.message})" if job.error else ""
        return f"is {job.state}{why}, should be {picture.state}"
    if len(job.attempts) < picture.attempts:
        return f"had {len(job.attempts)} attempts, should have had {picture.attempts}"
    if (result is not None) is not (picture.state == "succeeded"):
        return "has no result" if result is None else "has a result and should have none"
    return _result_fault(data, result, same_size=same_size) if result is not None else ""


def _result_fault(data: bytes, result: bytes, *, same_size: bool) -> str:
    try:
        with Image.open(BytesIO(result)) as edited, Image.open(BytesIO(data)) as original:
            edited.load()
            if same_size and edited.size != original.size:
                return f"came back as {edited.width}x{edited.height}, was {original.width}x{original.height}"
    except OSError as error:
        return f"has a result that does not decode: {error}"
    return ""


def _write_sheet(folder: Path, edits: Sequence[Edit], stack: DemoStack) -> Path:
    rows = [_row(edit) for edit in edits]
    states = [edit.job.state for edit in edits]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    through = "through the simulator" if stack.simulates else "through the real endpoint"
    title = f"Retouch: {len(edits)} edits"
    subtitle = f"{counts} · {through} · {datetime.now().astimezone():%d %B %Y, %H:%M}"
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
        note = f"before that: {earlier[-1]}" if earlier else ""
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


def _tell(console: Console, edits: Sequence[Edit], stack: DemoStack, folder: Path, sheet: Path) -> int:
    faults = [edit for edit in edits if edit.fault]
    cost = sum(edit.job.cost_usd for edit in edits)
    price = "nothing was billed by the simulator" if stack.simulates else f"about ${cost:.3f}"
    console.print(f"\n{len(edits) - len(faults)} of {len(edits)} edits ended as they should; {price}.")
    for edit in faults:
        console.print(f"  [red]{edit.picture.name}[/red] {escape(edit.fault)}")
    console.print()
    _tell_places(
        console, {"contact sheet": f"{sheet.as_uri()}, and .png beside it", "results": str(folder / "results")}
    )
    again = f"`retouch up --data-dir {stack.data_dir}`"
    if stack.data_dir == Path(".retouch").absolute():
        again = "`make up` (or `retouch up`)"
    console.print(f"\nThe rest stops now; {again} starts it again with these jobs in it:")
    known = stack.environment
    _tell_places(
        console,
        {
            "bucket": f"s3://{known['RETOUCH_S3_BUCKET']} at {known['RETOUCH_S3_ENDPOINT_URL']}",
            "Flower": f"{known['FLOWER_URL']} (user and password: {stack.data_dir / 'local.env'})",
            "API docs": f"{stack.url}/docs; the next time http://127.0.0.1:8000/docs",
        },
    )
    return 1 if faults else 0


def _tell_places(console: Console, places: Mapping[str, str]) -> None:
    for name, place in places.items():
        console.print(f"  {name:15}{place}", markup=False)
