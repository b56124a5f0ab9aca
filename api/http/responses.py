"""Response models that several routes share, and helpers that build responses."""

from datetime import datetime

from fastapi import Response
from pydantic import BaseModel, Field

from jobs.records.job_models import Job
from jobs.storage.bucket import Bucket

URL_LIVES_S = 3600
"""Lifetime of the presigned URLs in responses, in seconds."""


class SubmittedJob(Job):
    """A submitted job, with warnings."""

    warnings: list[str] = Field(
        default_factory=list, description="One sentence for each accepted field that has no effect."
    )


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    data: list[Job]
    next_cursor: str | None = Field(description="Send it as `cursor` to get the next page; null on the last page.")


class UploadRequest(BaseModel):
    """Describes the planned upload; both fields are optional."""

    model_config = {"extra": "forbid"}

    filename: str | None = Field(default=None, min_length=1, max_length=255, examples=["SKU-1041.jpg"])
    media_type: str | None = Field(
        default=None,
        pattern=r"^image/[a-z0-9.+-]{1,64}$",
        examples=["image/jpeg"],
        description="Part of the signature if present.",
    )


class UploadTarget(BaseModel):
    """Where to upload a picture, and the address to submit afterwards."""

    method: str = "PUT"
    url: str = Field(description="Presigned: PUT the picture's bytes here.")
    headers: dict[str, str] = Field(description="Headers that the PUT must have.")
    image: str = Field(description="The `s3://` address to submit as a job's `image`.")
    expires_at: datetime
    max_bytes: int = Field(description="Edits of larger pictures fail.")


def with_output_url(bucket: Bucket, job: Job) -> Job:
    """The job, with a presigned URL for its output if there is one."""
    if job.output is None:
        return job
    return job.with_output_url(bucket.presign_get(job.output.bucket, job.output.key, expires_s=URL_LIVES_S))


def answer(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response. It skips FastAPI's second validation of the response model."""
    return Response(body.model_dump_json(), status, headers=headers, media_type="application/json")
