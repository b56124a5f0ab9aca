"""Batches through the client: submit, follow, act, and fetch what came of them."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from pydantic import ValidationError

from retouch.errors import BadAnswer, ProblemError, Unreachable
from retouch.records import Batch
from retouch.transport import Transport, read_json

_PAGE = 100
_POLL_S = 1.0
_BLOCK = 1 << 16
OPTIONS = frozenset(
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
"""Fields of the batch itself; every other one is a default of its jobs."""


class Batches:
    """The batches of one service, as `Client.batches`.

    Every method may raise `ProblemError` (refused), `Unreachable` (no answer) and `BadAnswer` (not Retouch's answer).
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
        """Submit a batch. When this returns it is durable; its rows are read afterwards.

        Args:
            manifest: a local CSV, JSONL or XLSX file, or `https://…`, `s3://bucket/key`, `s3://bucket/prefix/`.
            items: rows instead of a manifest, up to 10,000: `{"custom_id": …, "image": …}` and further fields of a job.
            idempotency_key: the same key and request within 24 hours give the same batch; made up where absent.
            fields: of the batch (`name`, `trial`, `trial_sample`, `budget_usd`, `webhook_url`, `metadata`, `sheet`, …);
                any other one is a default of its jobs (`prompt`, `model`, `steps`, `priority`, …).

        Raises:
            OSError: the manifest cannot be read.
            ValueError: both or neither of `manifest` and `items` are given.
        """
        if (manifest is None) == (items is None):
            raise ValueError("either a manifest or items")
        given = {name: value for name, value in fields.items() if value is not None}
        body: dict[str, Any] = {name: value for name, value in given.items() if name in OPTIONS}
        defaults = {name: value for name, value in given.items() if name not in OPTIONS}
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
        return _batch(
            read_json(self._transport.call("POST", "/v1/batches", repeatable=True, headers=headers, **content))
        )

    def get(self, batch_id: str) -> Batch:
        """The batch as it is now."""
        return _batch(read_json(self._transport.call("GET", _path(batch_id), repeatable=True)))

    def list(self, *, limit: int | None = None) -> Iterator[Batch]:
        """Batches, newest first, fetched a page at a time; at most `limit` of them."""
        params: dict[str, str | int] = {}
        left = limit
        while left is None or left > 0:
            params["limit"] = _PAGE if left is None else min(_PAGE, left)
            page = read_json(self._transport.call("GET", "/v1/batches", repeatable=True, params=params))
            if not isinstance(page, dict) or not isinstance(page.get("data"), type([])):
                raise BadAnswer("the service answered with a list that has no `data`")
            yield from map(_batch, page["data"])
            if not page.get("next_cursor"):
                return
            params["cursor"] = page["next_cursor"]
            left = None if left is None else left - len(page["data"])

    def approve(self, batch_id: str, **changes: Any) -> Batch:
        """Let the rest be edited after the trial; changes (`prompt`, `steps`, …) go over what its rows say."""
        return self._act(batch_id, "approve", {name: value for name, value in changes.items() if value is not None})

    def pause(self, batch_id: str) -> Batch:
        """Start nothing more of it."""
        return self._act(batch_id, "pause")

    def resume(self, batch_id: str, *, budget_usd: float | None = None) -> Batch:
        """Go on, with a new budget where one is given."""
        return self._act(batch_id, "resume", {"budget_usd": budget_usd} if budget_usd is not None else None)

    def cancel(self, batch_id: str) -> Batch:
        """Stop it for good."""
        return self._act(batch_id, "cancel")

    def rollback(self, batch_id: str) -> Batch:
        """Point its output keys back to the versions before; `rollback` of the batch says how far that is."""
        return self._act(batch_id, "rollback")

    def retry(self, batch_id: str, states: Sequence[str] = ("failed",)) -> Batch:
        """Try its jobs of these states again: `failed`, `filtered`, `canceled`."""
        return self._act(batch_id, "retry", {"states": [*states]})

    def _act(self, batch_id: str, action: str, body: Mapping[str, Any] | None = None) -> Batch:
        content: dict[str, Any] = {"json": body} if body else {}
        return _batch(
            read_json(self._transport.call("POST", f"{_path(batch_id)}/{action}", repeatable=False, **content))
        )

    def follow(self, batch_id: str) -> Iterator[Batch]:
        """The batch each time it changed, at most once a second, until it has ended or waits for a word."""
        while True:
            try:
                for batch in self._events(batch_id):
                    yield batch
                    if batch.ended or (batch.needs_a_word and not batch.retrying):
                        return
            except Unreachable:
                pass  # the stream broke off: what follows asks anew, and gives up where nobody answers
            batch = self.get(batch_id)
            yield batch
            if batch.ended or batch.needs_a_word:
                return
            time.sleep(_POLL_S)

    def _events(self, batch_id: str) -> Iterator[Batch]:
        with self._transport.stream(f"{_path(batch_id)}/events") as answer:
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield _batch(json.loads(line.removeprefix("data:")))

    def results(self, batch_id: str, *, state: str | None = None) -> Iterator[dict[str, Any]]:
        """Each item in manifest order: its job, and refused rows as `rejected`."""
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
        """Write `results`, `rejects` or `archive.zip` to an open file as it comes.

        Args:
            batch_id: whose.
            what: which of the three.
            file: to write to.
            form: `jsonl` or `csv`, where there is a choice.
            state: of results: only those in this state.
        """
        params = {name: value for name, value in (("format", form), ("state", state)) if value}
        with self._transport.stream(f"{_path(batch_id)}/{what}", params=params) as answer:
            for block in answer.iter_bytes(_BLOCK):
                file.write(block)

    def sheet_page(self, batch_id: str, page: int) -> bytes | None:
        """A page of its contact sheet, HTML; None where there is no such page."""
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


def _batch(body: object) -> Batch:
    try:
        return Batch.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadAnswer(f"the service's batch cannot be read: {where}: {first['msg']}") from error
