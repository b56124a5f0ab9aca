"""The Python client of the HTTP API."""

import hashlib
import json
import mimetypes
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from retouch.batches import Batches
from retouch.configuration import find_access
from retouch.errors import BadAnswer, Damaged, NoOutput, Unreachable, WaitTimeout
from retouch.records import Job, Model, Record, State, Upload
from retouch.schedules import Schedules
from retouch.transport import Patience, Transport, in_words, read_json
from retouch.webhooks import Webhooks

R = TypeVar("R", bound=Record)

_PAGE = 100
_LONGEST_HOLD_S = 30.0
"""A longer wait is asked for in parts: proxies cut what is silent for a minute."""


class Client:
    """One service of Retouch, used with one API key. Threads may share it; close it, or use it in a `with`.

    Args:
        url: of the service; else `RETOUCH_URL`, else the one in the nearest `.retouch/local.env`.
        api_key: else `RETOUCH_API_KEY`, else the one beside that URL.
        timeout: most seconds without a byte from the service.
        patience: how often a request is repeated.

    Raises:
        NotConfigured: no service or no key is named anywhere.

    Every method may raise `ProblemError` (refused), `Unreachable` (no answer) and `BadAnswer` (not Retouch's answer).
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
            image: a path or bytes of a picture, or an address (`https://…`, `s3://bucket/key`, `data:…`).
            prompt: what the edit shall be.
            idempotency_key: the same key and request within 24 hours give the same job. Made up where absent, so that
                what this method sends again cannot become a second job.
            wait: seconds to wait for the job's end; it is returned, final or not, when they are over.
            fields: any further field of a job: `model`, `seed`, `custom_id`, `metadata`, `priority`, …

        Raises:
            OSError: the file cannot be read.
        """
        fields = {"prompt": prompt, **{name: value for name, value in fields.items() if value is not None}}
        content, headers = _request_body(image, fields)
        headers["Idempotency-Key"] = idempotency_key or uuid.uuid4().hex
        hold = min(wait, _LONGEST_HOLD_S)
        if hold > 0:
            headers["Prefer"] = f"wait={max(1, round(hold))}"
        deadline = time.monotonic() + wait
        answer = self._transport.call("POST", "/v1/jobs", repeatable=True, headers=headers, hold_s=hold, **content)
        job = _record(Job, read_json(answer))
        left = deadline - time.monotonic()
        if job.final or left <= 0:
            return job
        try:
            return self.wait(job.id, timeout=left)
        except WaitTimeout as over:
            return over.job

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return _record(Job, self._get(f"/v1/jobs/{quote(job_id, safe='')}"))

    def jobs(
        self,
        *,
        state: State | None = None,
        batch_id: str | None = None,
        custom_id: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Jobs, newest first, fetched a page at a time; at most `limit` of them."""
        chosen = {"state": state, "batch_id": batch_id, "custom_id": custom_id}
        params: dict[str, str | int] = {name: value for name, value in chosen.items() if value is not None}
        left = limit
        while left is None or left > 0:
            params["limit"] = _PAGE if left is None else min(_PAGE, left)
            page = self._get("/v1/jobs", params)
            data = _members(page)
            yield from (_record(Job, entry) for entry in data)
            cursor = page.get("next_cursor")
            if not cursor:
                return
            params["cursor"] = cursor
            left = None if left is None else left - len(data)

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Wait until the job is final.

        Raises:
            WaitTimeout: it was not within `timeout` seconds.
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
        """Stop a job that has not ended; a `ProblemError` of status 409 if it has."""
        return self._act(job_id, "cancel")

    def retry(self, job_id: str) -> Job:
        """Queue a job again that failed, was filtered or was canceled; a `ProblemError` of status 409 otherwise."""
        return self._act(job_id, "retry")

    def output(self, job_id: str) -> bytes:
        """The result's bytes, checked against its SHA-256.

        Raises:
            NoOutput: the job has none.
            Damaged: the bytes are not those that were kept.
        """
        return b"".join(self._output(self.job(job_id)))

    def download(self, job_id: str, path: str | Path) -> Path:
        """Write the result to a file: whole and checked against its SHA-256, or not at all.

        Raises:
            NoOutput: the job has none.
            Damaged: the bytes are not those that were kept.
            OSError: the file cannot be written.
        """
        return self.download_output(self.job(job_id), path)

    def download_output(self, job: Job, path: str | Path) -> Path:
        """`download` of a job that was just read: one request fewer."""
        path = Path(path)
        part = path.with_name(f".{path.name[:64]}.{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as file:
                for chunk in self._output(job):
                    file.write(chunk)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return path

    def upload(self, path: str | Path) -> str:
        """Put a local picture into the service's bucket; returns the `s3://` address to submit.

        Raises:
            OSError: the file cannot be read.
        """
        path = Path(path)
        body = path.read_bytes()
        media_type = mimetypes.guess_type(path.name)[0] or ""
        wanted = {"filename": path.name, **({"media_type": media_type} if media_type.startswith("image/") else {})}
        target = _record(Upload, read_json(self._transport.call("POST", "/v1/uploads", repeatable=True, json=wanted)))
        self._transport.stored("PUT", target.url, headers=target.headers, body=body).close()
        return target.image

    def stored(self, route: str) -> Iterator[bytes]:
        """The bytes of what a route of the service redirects to, read as they come; its key is not sent there."""
        answer = self._transport.call("GET", route, repeatable=True)
        stored = self._transport.stored("GET", answer.headers["Location"])
        try:
            yield from stored.iter_bytes(1 << 16)
        except httpx.TransportError as fault:
            raise Unreachable(f"{route} broke off: {in_words(fault)}") from fault
        finally:
            stored.close()

    def models(self) -> list[Model]:
        """Every model that may be named, and how it fares."""
        return [_record(Model, entry) for entry in _members(self._get("/v1/models"))]

    def park(self, model: str, reason: str = "parked by an operator") -> Model:
        """Set a model aside; needs an admin key."""
        path = f"/v1/models/{quote(model, safe='')}/park"
        return _record(Model, read_json(self._transport.call("POST", path, repeatable=True, json={"reason": reason})))

    def resume_model(self, model: str) -> Model:
        """Take a model up again; needs an admin key."""
        path = f"/v1/models/{quote(model, safe='')}/resume"
        return _record(Model, read_json(self._transport.call("POST", path, repeatable=True)))

    def tenants(self) -> list[dict[str, Any]]:
        """Every tenant with its quotas; needs an admin key."""
        return _members(self._get("/v1/tenants"))

    def set_quotas(self, tenant: str, quotas: Mapping[str, int | None]) -> dict[str, Any]:
        """Replace what a tenant may have (`max_queued`, `max_daily`, `max_in_flight`); needs an admin key."""
        path = f"/v1/tenants/{quote(tenant, safe='')}"
        return dict(read_json(self._transport.call("PUT", path, repeatable=True, json=dict(quotas))))

    def stats(self) -> dict[str, Any]:
        """Counts and rates as the service shows them: `tenant`, and `fleet` where the key is an admin's."""
        return self._get("/v1/stats")

    def _get(self, path: str, params: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        body = read_json(self._transport.call("GET", path, repeatable=True, params=params))
        if not isinstance(body, dict):
            raise BadAnswer(f"{self.url}{path} answered with something that is not Retouch's")
        return body

    def _act(self, job_id: str, action: str) -> Job:
        path = f"/v1/jobs/{quote(job_id, safe='')}/{action}"
        return _record(Job, read_json(self._transport.call("POST", path, repeatable=False)))

    def _output(self, job: Job) -> Iterator[bytes]:
        if job.output is None or job.output.url is None:
            raise NoOutput(f"{job.id} is {job.state} and has no output")
        seen = hashlib.sha256()
        answer = self._transport.stored("GET", job.output.url)
        try:
            for chunk in answer.iter_bytes(1 << 16):
                seen.update(chunk)
                yield chunk
        except httpx.TransportError as fault:
            raise Unreachable(f"the output of {job.id} broke off: {in_words(fault)}") from fault
        finally:
            answer.close()
        if seen.hexdigest() != job.output.sha256:
            raise Damaged(f"the output of {job.id} is not what was kept: its SHA-256 differs")


def _request_body(image: str | Path | bytes, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What httpx shall send, and the headers that go with it."""
    if isinstance(image, str) and is_address(image):
        return {"json": {**fields, "image": image}}, {}
    name, picture = ("image", image) if isinstance(image, bytes) else (Path(image).name, Path(image).read_bytes())
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    # The boundary follows from the content: a request that is sent again under the same key is the same, byte for byte.
    boundary = f"retouch-{hashlib.sha256(picture).hexdigest()[:40]}"
    form = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
    return (
        {"data": form, "files": {"image": (name, picture, media_type)}},
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )


def is_address(image: str) -> bool:
    """Whether it names a picture elsewhere, not a local file."""
    return image.startswith("data:") or "://" in image


def _members(page: Mapping[str, Any]) -> list[Any]:
    data = page.get("data")
    if not isinstance(data, list):
        raise BadAnswer("the service answered with a list that has no `data`")
    return data


def _record(kind: type[R], body: object) -> R:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadAnswer(f"the service's {kind.__name__.lower()} cannot be read: {where}: {first['msg']}") from error
