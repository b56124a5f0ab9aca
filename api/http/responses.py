"""What the API answers beside a job itself, and how a job becomes an answer."""

from datetime import datetime

from fastapi import Response
from pydantic import BaseModel, Field

from jobs.records.job_models import Job
from jobs.storage.bucket import Bucket

URL_LIVES_S = 3600
"""How long a presigned URL of an answer can be fetched, in seconds."""


class SubmittedJob(Job):
    """A job as its submit answers it."""

    warnings: list[str] = Field(
        default_factory=list, description="What was accepted and has no effect, one sentence each."
    )


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    data: list[Job]
    next_cursor: str | None = Field(description="Send it back as `cursor` for the next page; null at the end.")


class UploadRequest(BaseModel):
    """What is going to be uploaded; both fields are optional."""

    model_config = {"extra": "forbid"}

    filename: str | None = Field(default=None, min_length=1, max_length=255, examples=["SKU-1041.jpg"])
    media_type: str | None = Field(
        default=None, pattern=r"^image/[a-z0-9.+-]{1,64}$", examples=["image/jpeg"], description="Signed if given."
    )


class UploadTarget(BaseModel):
    """Where to put a picture, and what to submit then."""

    method: str = "PUT"
    url: str = Field(description="Presigned: PUT the picture's bytes here.")
    headers: dict[str, str] = Field(description="Headers the PUT must carry.")
    image: str = Field(description="The `s3://` address to submit as a job's `image`.")
    expires_at: datetime
    max_bytes: int = Field(description="Larger pictures are refused when they are edited.")


def shown(bucket: Bucket, job: Job) -> Job:
    """The job with its output's presigned URL, if it has an output."""
    if job.output is None:
        return job
    return job.with_output_url(bucket.presign_get(job.output.bucket, job.output.key, expires_s=URL_LIVES_S))


def answer(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A record as JSON. Routes that name a response model skip its second validation this way."""
    return Response(body.model_dump_json(), status, headers=headers, media_type="application/json")
