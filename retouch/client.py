"""The Python client of the HTTP API."""

import hashlib
import json
import mimetypes
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from retouch.atomic_file import write_atomically
from retouch.batches import Batches
from retouch.configuration import find_access
from retouch.errors import Damaged, NoOutput, Unreachable, WaitTimeout
from retouch.records import Job, Model, State, Upload
from retouch.schedules import Schedules
from retouch.transport import Patience, Transport, describe_fault, entries_of, read_record
from retouch.webhooks import Webhooks

_BLOCK_BYTES = 1 << 16
_MAX_HOLD_S = 30.0
"""Maximum wait in one request: proxies close a connection that is silent for a minute."""


class Client:
    """A client of one Retouch service. Threads may share it. Close it, or use it in a `with` statement.

    Args:
        url: the service's URL. Default: `RETOUCH_URL`, else the URL in the nearest `.retouch/local.env`.
        api_key: the API key. Default: `RETOUCH_API_KEY`, else the key in that `local.env` if its URL is used.
        timeout: maximum seconds without a byte from the service.
        patience: how often and how long a request is retried.

    Raises:
        NotConfigured: the URL or the key is missing or invalid.

    Every method can raise `ProblemError` (refused), `Unreachable` (no answer) and `BadAnswer` (not from Retouch).
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        patience: Patience | None = None,
    ) -> None:
        access = find_access(url, api_key)
        self.url = access.url
        self._transport = Transport(access, timeout_s=timeout, patience=patience or Patience())
        self.batches = Batches(self._transport)
        self.schedules = Schedules(self._transport)
        self.webhooks = Webhooks(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def submit(
        self,
        image: str | Path | bytes,
        *,
        prompt: str,
        idempotency_key: str | None = None,
        wait: float = 0,
        **fields: Any,
    ) -> Job:
        """Submit one edit. When this returns, the job is durable.

        Args:
            image: the path or the bytes of an image, or its URL (`https://…`, `s3://bucket/key`, `data:…`).
            prompt: the description of the edit.
            idempotency_key: the same key and request within 24 hours return the same job. Default: a random key, so
                that a retry inside this method cannot create a second job.
            wait: maximum seconds to wait for the job's end. After that, the job is returned in its current state.
            fields: any other field of a job: `model`, `seed`, `custom_id`, `metadata`, `priority`, …

        Raises:
            OSError: the file cannot be read.
        """
        fields = {"prompt": prompt, **{name: value for name, value in fields.items() if value is not None}}
        content, headers = _request_body(image, fields)
        headers["Idempotency-Key"] = idempotency_key or uuid.uuid4().hex
        hold = min(wait, _MAX_HOLD_S)
        if hold > 0:
            headers["Prefer"] = f"wait={max(1, round(hold))}"
        deadline = time.monotonic() + wait
        body = self._transport.call_json("POST", "/v1/jobs", repeatable=True, headers=headers, hold_s=hold, **content)
        job = read_record(Job, body)
        left = deadline - time.monotonic()
        if job.final or left <= 0:
            return job
        try:
            return self.wait(job.id, timeout=left)
        except WaitTimeout as timeout:
            return timeout.job

    def job(self, job_id: str) -> Job:
        """The current state of a job."""
        return read_record(Job, self._get(f"/v1/jobs/{quote(job_id, safe='')}"))

    def jobs(
        self,
        *,
        state: State | None = None,
        batch_id: str | None = None,
        custom_id: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Jobs, newest first, at most `limit` of them. Each page is requested when it is needed."""
        filters = {"state": state, "batch_id": batch_id, "custom_id": custom_id}
        params = {name: value for name, value in filters.items() if value is not None}
        pages = self._transport.list_pages("/v1/jobs", limit=limit, params=params)
        return (read_record(Job, entry) for entry in pages)

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait until the job has ended.

        Raises:
            WaitTimeout: the job did not end within `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.1
        while True:
            job = self.job(job_id)
            if job.final:
                return job
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(job, timeout or 0)
            time.sleep(pause if left is None else min(pause, left))
            pause = min(2.0, pause * 1.5)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job. A job that has ended raises a `ProblemError` with status 409."""
        return self._act(job_id, "cancel")

    def retry(self, job_id: str) -> Job:
        """Queue a failed, filtered or canceled job again. Any other state raises a `ProblemError` with status 409."""
        return self._act(job_id, "retry")

    def output(self, job_id: str) -> bytes:
        """The result's bytes, checked against their SHA-256.

        Raises:
            NoOutput: the job has no output.
            Damaged: the bytes do not match their SHA-256.
        """
        return b"".join(self._output(self.job(job_id)))

    def download(self, job_id: str, path: str | Path) -> Path:
        """Download the result to a file and check its SHA-256. After an error the file is unchanged.

        Raises:
            NoOutput: the job has no output.
            Damaged: the bytes do not match their SHA-256.
            OSError: the file cannot be written.
        """
        return self.download_output(self.job(job_id), path)

    def download_output(self, job: Job, path: str | Path) -> Path:
        """`download` for a job record; saves the request that reads the job."""
        path = Path(path)
        with write_atomically(path) as file:
            for chunk in self._output(job):
                file.write(chunk)
        return path

    def upload(self, path: str | Path) -> str:
        """Upload a local file into the service's bucket; returns the `s3://` URL to submit.

        Raises:
            OSError: the file cannot be read.
        """
        path = Path(path)
        body = path.read_bytes()
        media_type = mimetypes.guess_type(path.name)[0] or ""
        fields = {"filename": path.name, **({"media_type": media_type} if media_type.startswith("image/") else {})}
        target = read_record(Upload, self._transport.call_json("POST", "/v1/uploads", repeatable=True, json=fields))
        self._transport.stored("PUT", target.url, headers=target.headers, body=body).close()
        return target.image

    def stored(self, route: str) -> Iterator[bytes]:
        """Stream the stored object that a route redirects to. The API key is not sent to the store."""
        answer = self._transport.call("GET", route, repeatable=True)
        stored = self._transport.stored("GET", answer.headers["Location"])
        try:
            yield from stored.iter_bytes(_BLOCK_BYTES)
        except httpx.TransportError as fault:
            raise Unreachable(f"the connection broke during {route}: {describe_fault(fault)}") from fault
        finally:
            stored.close()

    def models(self) -> list[Model]:
        """Every model of the service with its current state."""
        return [read_record(Model, entry) for entry in entries_of(self._get("/v1/models"))]

    def park(self, model: str, reason: str = "parked by an operator") -> Model:
        """Park a model: none of its jobs start. Needs an admin key."""
        path = f"/v1/models/{quote(model, safe='')}/park"
        body = self._transport.call_json("POST", path, repeatable=True, json={"reason": reason})
        return read_record(Model, body)

    def resume_model(self, model: str) -> Model:
        """Resume a parked model; needs an admin key."""
        path = f"/v1/models/{quote(model, safe='')}/resume"
        return read_record(Model, self._transport.call_json("POST", path, repeatable=True))

    def tenants(self) -> list[dict[str, Any]]:
        """Every tenant with its quotas; needs an admin key."""
        return entries_of(self._get("/v1/tenants"))

    def set_quotas(self, tenant: str, quotas: Mapping[str, int | None]) -> dict[str, Any]:
        """Replace a tenant's quotas (`max_queued`, `max_daily`, `max_in_flight`); needs an admin key."""
        path = f"/v1/tenants/{quote(tenant, safe='')}"
        return self._transport.call_json("PUT", path, repeatable=True, json=dict(quotas))

    def stats(self) -> dict[str, Any]:
        """Counts and rates of the service: `tenant`, and with an admin key also `fleet`."""
        return self._get("/v1/stats")

    def _get(self, path: str) -> dict[str, Any]:
        return self._transport.call_json("GET", path, repeatable=True)

    def _act(self, job_id: str, action: str) -> Job:
        path = f"/v1/jobs/{quote(job_id, safe='')}/{action}"
        return read_record(Job, self._transport.call_json("POST", path, repeatable=False))

    def _output(self, job: Job) -> Iterator[bytes]:
        if job.output is None or job.output.url is None:
            raise NoOutput(f"{job.id} is {job.state} and has no output")
        digest = hashlib.sha256()
        answer = self._transport.stored("GET", job.output.url)
        try:
            for chunk in answer.iter_bytes(_BLOCK_BYTES):
                digest.update(chunk)
                yield chunk
        except httpx.TransportError as fault:
            raise Unreachable(f"the connection broke during the output of {job.id}: {describe_fault(fault)}") from fault
        finally:
            answer.close()
        if digest.hexdigest() != job.output.sha256:
            raise Damaged(f"the output of {job.id} is damaged: its SHA-256 does not match")


def _request_body(image: str | Path | bytes, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The content arguments for httpx, and the headers for them."""
    if isinstance(image, str) and is_url(image):
        return {"json": {**fields, "image": image}}, {}
    name, content = ("image", image) if isinstance(image, bytes) else (Path(image).name, Path(image).read_bytes())
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    # The service compares a repeated request byte for byte, so the boundary must depend on the content alone.
    boundary = f"retouch-{hashlib.sha256(content).hexdigest()[:40]}"
    form = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
    return (
        {"data": form, "files": {"image": (name, content, media_type)}},
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )


def is_url(image: str) -> bool:
    """Whether `image` is a URL and not a local path."""
    return image.startswith("data:") or "://" in image
