"""The client's calls for batches: submit, follow, act, and download results."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from retouch.errors import ProblemError, Unreachable
from retouch.records import Batch
from retouch.transport import Transport, read_record

_POLL_S = 1.0
_BLOCK_BYTES = 1 << 16
BATCH_FIELDS = frozenset(
    {
        "name",
        "trial",
        "trial_sample",
        "budget_usd",
        "webhook_url",
        "webhook_events",
        "webhook_digest_s",
        "metadata",
        "sheet",
        "supersede",
        "defaults",
    }
)
"""Fields of the batch itself. Every other field is a default for its jobs."""


class Batches:
    """The batches of one service; use it as `Client.batches`.

    Every method can raise `ProblemError` (refused), `Unreachable` (no answer) and `BadAnswer` (not from Retouch).
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def submit(
        self,
        manifest: str | Path | None = None,
        *,
        items: Sequence[Mapping[str, Any]] | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Batch:
        """Submit a batch. When this returns, the batch is durable. The service reads the rows afterwards.

        Args:
            manifest: a local CSV, JSONL or XLSX file, or `https://…`, `s3://bucket/key`, `s3://bucket/prefix/`.
            items: up to 10,000 rows instead of a manifest: `{"custom_id": …, "image": …}` and other fields of a job.
            idempotency_key: the same key and request within 24 hours return the same batch. Default: a random key.
            fields: fields of the batch (`name`, `trial`, `trial_sample`, `budget_usd`, `webhook_url`, `metadata`, …);
                any other field is a default for its jobs (`prompt`, `model`, `steps`, `priority`, …).

        Raises:
            OSError: the manifest cannot be read.
            ValueError: not exactly one of `manifest` and `items` was passed.
        """
        if (manifest is None) == (items is None):
            raise ValueError("pass either a manifest or items")
        fields = {name: value for name, value in fields.items() if value is not None}
        body: dict[str, Any] = {name: value for name, value in fields.items() if name in BATCH_FIELDS}
        defaults = {name: value for name, value in fields.items() if name not in BATCH_FIELDS}
        if defaults or "defaults" in body:
            body["defaults"] = {**body.get("defaults", {}), **defaults}
        content: dict[str, Any]
        if items is not None:
            content = {"json": {**body, "items": list(items)}}
        elif isinstance(manifest, str) and "://" in manifest:
            content = {"json": {**body, "manifest": manifest}}
        else:
            path = Path(manifest or "")
            form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
            content = {"data": form, "files": {"manifest": (path.name, path.read_bytes(), "application/octet-stream")}}
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        body = self._transport.call_json("POST", "/v1/batches", repeatable=True, headers=headers, **content)
        return read_record(Batch, body)

    def get(self, batch_id: str) -> Batch:
        """The current state of a batch."""
        return read_record(Batch, self._transport.call_json("GET", _path(batch_id), repeatable=True))

    def list(self, *, limit: int | None = None) -> Iterator[Batch]:
        """Batches, newest first, at most `limit` of them. Each page is requested when it is needed."""
        return (read_record(Batch, entry) for entry in self._transport.list_pages("/v1/batches", limit=limit))

    def approve(self, batch_id: str, **changes: Any) -> Batch:
        """Edit the rest of a batch after its trial; `changes` (`prompt`, `steps`, …) override the rows' values."""
        return self._act(batch_id, "approve", {name: value for name, value in changes.items() if value is not None})

    def pause(self, batch_id: str) -> Batch:
        """Start no more jobs of the batch. Running jobs finish."""
        return self._act(batch_id, "pause")

    def resume(self, batch_id: str, *, budget_usd: float | None = None) -> Batch:
        """Continue a paused batch, optionally with a new budget."""
        return self._act(batch_id, "resume", {"budget_usd": budget_usd} if budget_usd is not None else None)

    def cancel(self, batch_id: str) -> Batch:
        """Cancel the batch and its unfinished jobs."""
        return self._act(batch_id, "cancel")

    def rollback(self, batch_id: str) -> Batch:
        """Restore the previous versions of the batch's outputs; the batch's field `rollback` shows the progress."""
        return self._act(batch_id, "rollback")

    def retry(self, batch_id: str, states: Sequence[str] = ("failed",)) -> Batch:
        """Queue the batch's jobs in these states again: `failed`, `filtered`, `canceled`."""
        return self._act(batch_id, "retry", {"states": [*states]})

    def _act(self, batch_id: str, action: str, body: Mapping[str, Any] | None = None) -> Batch:
        content: dict[str, Any] = {"json": body} if body else {}
        path = f"{_path(batch_id)}/{action}"
        return read_record(Batch, self._transport.call_json("POST", path, repeatable=False, **content))

    def follow(self, batch_id: str) -> Iterator[Batch]:
        """Yield the batch after each change, at most once a second, until it has ended or needs a decision."""
        while True:
            try:
                for batch in self._events(batch_id):
                    yield batch
                    if batch.ended or (batch.needs_decision and not batch.retrying):
                        return
            except Unreachable:
                pass  # the stream broke; `get` retries, and raises if the service is still unreachable
            batch = self.get(batch_id)
            yield batch
            if batch.ended or batch.needs_decision:
                return
            time.sleep(_POLL_S)

    def _events(self, batch_id: str) -> Iterator[Batch]:
        with self._transport.stream(f"{_path(batch_id)}/events") as answer:
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield read_record(Batch, json.loads(line.removeprefix("data:")))

    def results(self, batch_id: str, *, state: str | None = None) -> Iterator[dict[str, Any]]:
        """Each item's job in manifest order; rejected rows have the state `rejected`."""
        params = {"format": "jsonl", **({"state": state} if state else {})}
        with self._transport.stream(f"{_path(batch_id)}/results", params=params) as answer:
            for line in answer.iter_lines():
                if line:
                    yield json.loads(line)

    def write(
        self,
        batch_id: str,
        what: str,
        file: IO[bytes],
        *,
        form: str | None = None,
        state: str | None = None,
    ) -> None:
        """Stream `results`, `rejects` or `archive.zip` into an open file.

        Args:
            batch_id: the batch.
            what: one of these three names.
            file: the file to write to.
            form: `jsonl` or `csv`, for results and rejects.
            state: for results: only items in this state.
        """
        params = {name: value for name, value in (("format", form), ("state", state)) if value}
        with self._transport.stream(f"{_path(batch_id)}/{what}", params=params) as answer:
            for block in answer.iter_bytes(_BLOCK_BYTES):
                file.write(block)

    def sheet_page(self, batch_id: str, page: int) -> bytes | None:
        """One HTML page of the contact sheet; None if there is no such page."""
        try:
            answer = self._transport.call("GET", f"{_path(batch_id)}/sheet/{page}", repeatable=True)
        except ProblemError as problem:
            if problem.status in {404, 409}:
                return None
            raise
        stored = self._transport.stored("GET", answer.headers["Location"])
        try:
            return stored.read()
        finally:
            stored.close()


def _path(batch_id: str) -> str:
    return f"/v1/batches/{quote(batch_id, safe='')}"
