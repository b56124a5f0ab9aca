"""A loopback server with the JSON formats of the HTTP API and injected faults, to test the client."""

import hashlib
import json
import threading
from collections import deque
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

KEY = "rtk_test"
RESULT = b"\x89PNG the edited picture"


class ContractService:
    """Jobs in memory.

    Each request consumes one of `faults`: `drop` closes the connection, `drop after` does so after processing the
    request, and (status, headers, body) is sent as the answer.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, tuple[str, str]] = {}
        self.faults: deque[Any] = deque()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.uploads: dict[str, bytes] = {}
        self.stored = RESULT
        self.next_states: dict[str, deque[str]] = {}
        service = self

        class Handler(_Handler):
            pass

        Handler.service = service
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, state: str = "queued", **fields: Any) -> dict[str, Any]:
        job: dict[str, Any] = {
            "id": f"job_{len(self.jobs):026d}",
            "state": state,
            "model": "step-image-edit-2",
            "prompt": "p",
            "input": {"image": "s3://retouch/in.png"},
            "output": None,
            "error": None,
            "attempts": [],
            "metadata": {},
            "priority": "normal",
            "cost_usd": 0.0,
            "created_at": datetime.now(UTC).isoformat(),
            **fields,
        }
        self.jobs[job["id"]] = job
        self.set_state(job, state)
        return job

    def set_state(self, job: dict[str, Any], state: str) -> None:
        job["state"] = state
        if state == "succeeded":
            job["output"] = {
                "url": f"{self.url}/stored/{job['id']}?signature=abc",
                "bucket": "retouch",
                "key": f"out/{job['id']}.png",
                "sha256": hashlib.sha256(RESULT).hexdigest(),
                "bytes": len(RESULT),
                "media_type": "image/png",
                "width": 4,
                "height": 3,
            }
        elif state in {"filtered", "failed"}:
            job["error"] = {"code": "content_filtered", "message": "stopped by the filter", "retryable": False}

    def advance_on_reads(self, job: dict[str, Any], *states: str) -> None:
        """Each read of the job moves it to the next of these states."""
        self.next_states[job["id"]] = deque(states)


class _Handler(BaseHTTPRequestHandler):
    service: ContractService
    protocol_version = "HTTP/1.1"
    is_muted = False

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        if self.is_muted:
            return
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _problem(self, status: int, title: str, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "errors": errors or []}
        self._answer(status, body, {"Content-Type": "application/problem+json"})

    def _receive(self) -> bytes | None:
        """The request's body; None if the request is already answered."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.service.requests.append((self.command, self.path, dict(self.headers)))
        if self.service.faults:
            fault = self.service.faults.popleft()
            if fault == "drop":
                self.close_connection = True
                self.connection.close()
                return None
            if fault == "drop after":
                self.is_muted = True
                self._route(body)
                self.close_connection = True
                self.connection.close()
                return None
            status, headers, text = fault
            self._answer(status, text, headers)
            return None
        if not self.path.startswith("/stored/") and self.headers.get("Authorization") != f"Bearer {KEY}":
            self._problem(401, "Unauthorized", "no API key, or an unknown one")
            return None
        return body

    def do_GET(self) -> None:
        if self._receive() is None:
            return
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/stored/"):
            self._answer(200, self.service.stored)
        elif parts.path == "/v1/jobs":
            jobs = [
                job
                for job in reversed(self.service.jobs.values())
                if all(job.get(name) == query[name] for name in ("state", "custom_id") if name in query)
            ]
            begin, size = int(query.get("cursor", 0)), min(int(query["limit"]), 3)
            more = begin + size < len(jobs)
            self._answer(200, {"data": jobs[begin : begin + size], "next_cursor": str(begin + size) if more else None})
        elif parts.path == "/v1/models":
            model = {"name": "m", "dialect": "stepfun", "limits": {"concurrency": 5, "rpm": 100.0}, "price_usd": 0.003}
            model |= {"window": 5, "pace_rpm": 90.5, "in_flight": 0, "queued": 2, "waiting": 0, "parked": True}
            model["later"] = 1
            self._answer(200, {"data": [model], "next_cursor": None})
        else:
            job = self.service.jobs.get(parts.path.rpartition("/")[2])
            if job is None:
                self._problem(404, "Not found", "no such job")
                return
            if next_states := self.service.next_states.get(job["id"]):
                self.service.set_state(job, next_states.popleft())
            self._answer(200, job)

    def do_PUT(self) -> None:
        body = self._receive()
        if body is not None:
            self.service.uploads[self.path] = body
            self._answer(200, {})

    def do_POST(self) -> None:
        body = self._receive()
        if body is not None:
            self._route(body)

    def _route(self, body: bytes) -> None:
        service = self.service
        if self.path == "/v1/uploads":
            fields = json.loads(body)
            put = {"url": f"{service.url}/stored/up", "headers": {"Content-Type": fields.get("media_type", "none")}}
            self._answer(201, {**put, "image": "s3://retouch/up"})
        elif self.path == "/v1/jobs":
            job = self._submit(body)
            if job is not None:
                self._answer(202, job)
        else:
            _, _, _, job_id, action = self.path.split("/")
            job = service.jobs.get(job_id)
            if job is None:
                self._problem(404, "Not found", "no such job")
            elif (action == "cancel") is (job["state"] in {"succeeded", "failed", "canceled", "filtered"}):
                self._problem(409, "Conflict", f"{job_id} is {job['state']}")
            else:
                service.set_state(job, "canceled" if action == "cancel" else "queued")
                self._answer(200, job)

    def _submit(self, body: bytes) -> dict[str, Any] | None:
        service = self.service
        digest = hashlib.sha256(body + self.headers["Content-Type"].encode()).hexdigest()
        key = self.headers.get("Idempotency-Key", "")
        if key in service.keys:
            known_digest, job_id = service.keys[key]
            if known_digest == digest:
                return service.jobs[job_id]
            self._problem(422, "Idempotency mismatch", "the same Idempotency-Key came with another body")
            return None
        fields = self._fields(body)
        if not fields.get("prompt"):
            rule = {"field": "prompt", "message": "required: describe the edit", "code": "missing"}
            self._problem(422, "Invalid input", "the request breaks a rule", [rule])
            return None
        job = service.add("succeeded" if "wait=" in (self.headers.get("Prefer") or "") else "queued")
        job |= {name: fields[name] for name in ("prompt", "custom_id", "metadata", "seed") if name in fields}
        job["sent"] = {name: value for name, value in fields.items() if name != "image"}
        service.keys[key] = (digest, job["id"])
        return job

    def _fields(self, body: bytes) -> dict[str, Any]:
        kind = self.headers["Content-Type"]
        if kind == "application/json":
            return dict(json.loads(body))
        boundary = kind.partition("boundary=")[2].encode()
        fields: dict[str, Any] = {}
        for part in body.split(b"--" + boundary)[1:-1]:
            head, _, value = part.strip(b"\r\n").partition(b"\r\n\r\n")
            name = head.partition(b'name="')[2].partition(b'"')[0].decode()
            if name in {"image", "file"}:
                fields[name] = len(value)
            else:
                fields[name] = json.loads(value) if name in {"metadata", "seed"} else value.decode()
        return fields
