"""The options of `submit`, grouped as its help shows them."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

_EDIT = "Edit"
_SINGLE = "Single images"
_BATCH = "Batches"


class PriorityChoice(StrEnum):
    """A job's priority."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


Images = Annotated[
    list[str],
    Argument(
        metavar="IMAGE…|MANIFEST",
        help="Image files, https:// or s3:// URLs; or one manifest: CSV, JSONL, XLSX, or s3://bucket/prefix/.",
    ),
]

Prompt = Annotated[str | None, Option("--prompt", "-p", help="The description of the edit.", rich_help_panel=_EDIT)]
Model = Annotated[str | None, Option(help="The model. Default: the service's default.", rich_help_panel=_EDIT)]
Seed = Annotated[int | None, Option(help="The same seed requests the same image again.", rich_help_panel=_EDIT)]
Steps = Annotated[int | None, Option(help="Number of inference steps.", rich_help_panel=_EDIT)]
CfgScale = Annotated[float | None, Option(help="How closely the result follows the prompt.", rich_help_panel=_EDIT)]
NegativePrompt = Annotated[
    str | None, Option(help="Content that must not appear in the result.", rich_help_panel=_EDIT)
]
TextMode = Annotated[
    bool | None, Option("--text-mode/--no-text-mode", help="A mode for text in images.", rich_help_panel=_EDIT)
]
Size = Annotated[str | None, Option(help="Size of the result, if the model supports it.", rich_help_panel=_EDIT)]

Priority = Annotated[PriorityChoice | None, Option(help="Priority among your own jobs.")]
Metadata = Annotated[list[str] | None, Option(metavar="NAME=VALUE", help="Your own data of the job. Repeatable.")]
NotBefore = Annotated[datetime | None, Option(help="Do not start before this local time.")]
Deadline = Annotated[float | None, Option(help="Fail a job that has not ended after this number of seconds.")]
OutputKey = Annotated[
    str | None, Option(help="Template of the key in the bucket: {custom_id}, {job_id}, {batch_id}, {ext}.")
]
WebhookUrl = Annotated[str | None, Option(help="URL that receives a signed webhook at the end.")]
Reuse = Annotated[
    bool | None, Option("--reuse/--no-reuse", help="Use the result of an earlier identical edit if there is one.")
]

Wait = Annotated[bool, Option("--wait", "-w", help="Wait until all jobs have ended.", rich_help_panel=_SINGLE)]
Output = Annotated[
    Path | None,
    Option(
        "-o",
        "--output",
        metavar="FILE|DIR",
        help="With --wait: where to write the results.",
        rich_help_panel=_SINGLE,
    ),
]
CustomId = Annotated[
    str | None, Option(help="Your name for the job, such as a SKU; for one image.", rich_help_panel=_SINGLE)
]
IdempotencyKey = Annotated[
    str | None,
    Option(help="Submits with the same key create one job; for one image.", rich_help_panel=_SINGLE),
]

Batch = Annotated[
    bool | None,
    Option(
        "--batch/--no-batch",
        help="Submit a batch, or single jobs. Default: several files or a manifest become a batch.",
        rich_help_panel=_BATCH,
    ),
]
Name = Annotated[str | None, Option(help="A display name.", rich_help_panel=_BATCH)]
Trial = Annotated[
    int | None, Option(min=1, help="Edit this number of items first, then wait for `approve`.", rich_help_panel=_BATCH)
]
TrialSample = Annotated[
    str | None, Option(help="How to choose the items of the trial: first or random.", rich_help_panel=_BATCH)
]
Budget = Annotated[
    float | None, Option(metavar="USD", help="Pause before the batch costs more than this.", rich_help_panel=_BATCH)
]
Sheet = Annotated[bool, Option("--sheet", help="Create a contact sheet at the end.", rich_help_panel=_BATCH)]
Supersede = Annotated[
    bool,
    Option(
        "--supersede",
        help="Cancel waiting jobs with the same custom_id, and keep replaced results as versions.",
        rich_help_panel=_BATCH,
    ),
]
Watch = Annotated[bool, Option("--watch", help="Follow the batch: rate, time left, failures.", rich_help_panel=_BATCH)]
Again = Annotated[
    bool, Option("--again", help="Submit files again that were already submitted.", rich_help_panel=_BATCH)
]
