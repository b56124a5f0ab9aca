"""The application: the edit endpoint, the downloads of results, and the control plane."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import ceil
from typing import TYPE_CHECKING
from uuid import uuid4

from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from infra.simulator import delivery
from infra.simulator.control import ControlPlane
from infra.simulator.dialects import MODELS, STEPFUN, Dialect, dialect_of
from infra.simulator.edit import UnreadableImage
from infra.simulator.fault_injection import CallBehaviour, FaultInjector
from infra.simulator.form_parsing import MAX_SEED, Answer, EditRequest, Output, Refusal, invalid, text
from infra.simulator.ledger import Call, Ledger, new_call
from infra.simulator.limits import Limiter
from infra.simulator.results import Picture, Renderer, Results

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from infra.simulator.knobs import Knobs

_RECORDED_HEADERS = ("traceparent", "idempotency-key", "user-agent")
_JSON = "application/json"


class Simulator:
    """The state of one simulated endpoint. Use it on one event loop."""

    def __init__(self, knobs: Knobs) -> None:
        self.knobs = knobs
        self.rng = random.Random(knobs.rng_seed)  # noqa: S311 - repeatable choices, not secrets
        self.faults = FaultInjector(self.rng)
        self.ledger = Ledger()
        self.results = Results()
        self.renderer = Renderer()
        self.limiters: defaultdict[tuple[str, str], Limiter] = defaultdict(Limiter)
        self.downloads_to_fail = knobs.download_fail

    def change_knobs(self, knobs: Knobs, changed: set[str]) -> None:
        """Apply new knobs; ``changed`` has the names of the fields that were sent."""
        self.knobs = knobs
        if "rng_seed" in changed:
            self.rng.seed(knobs.rng_seed)
        if "download_fail" in changed:
            self.downloads_to_fail = knobs.download_fail

    async def edit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one edit call and record it in the ledger."""
        request = Request(scope, receive)
        call = new_call(uuid4().hex, uuid4().hex, _recorded_headers(request))
        self.ledger.add(call)
        try:
            async with AsyncExitStack() as resources:
                response = await self._respond(request, call, resources)
                if call.outcome not in {"reset", "hang"}:
                    call.status = response.status_code
                await response(scope, receive, send)
        except ClientDisconnect:
            call.outcome = "caller_left"
        finally:
            call.finished = time.monotonic()

    async def _respond(self, request: Request, call: Call, resources: AsyncExitStack) -> Response:
        dialect: Dialect = STEPFUN
        try:
            form = await _parse_form(request, resources)
            call.model = text(form, "model")
            dialect = dialect_of(call.model)
            if self.knobs.retired == "plain":
                return _plain_not_found(dialect, call)
            if self.knobs.retired != "none":
                raise Refusal(int(self.knobs.retired), "this endpoint has been retired", reason="retired")
            key = self._authorize(request)
            edit = await self._parse(form, dialect, call)
            behaviour = self._admit(edit, key, call, resources)
            if behaviour.fault in {"reset", "hang"}:
                call.outcome = behaviour.fault
                return delivery.Reset() if behaviour.fault == "reset" else delivery.Hang()
            if behaviour.refusal is not None:
                await asyncio.sleep(behaviour.latency_s)
                raise behaviour.refusal
            return await self._work(request, edit, behaviour, dialect, call)
        except Refusal as refusal:
            return self._refuse(refusal, dialect, call)

    def _authorize(self, request: Request) -> str:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or key.strip() not in self.knobs.keys:
            raise Refusal(401, "Incorrect API key provided")
        if self.knobs.quota_exhausted:
            raise Refusal(402, "You exceeded your current quota, please check your plan", reason="quota")
        return key.strip()

    async def _parse(self, form: FormData, dialect: Dialect, call: Call) -> EditRequest:
        if not call.model:
            raise invalid("model is required", "model")
        if call.model not in MODELS:
            raise Refusal(404, f"The model {call.model[:80]!r} does not exist", reason="model", param="model")
        edit = await dialect.read(form)
        call.prompt, call.options, call.image_bytes = edit.prompt, dict(edit.options), len(edit.image)
        call.seed = self.rng.randint(0, MAX_SEED) if edit.seed is None else edit.seed
        call.image_sha256 = await self.renderer.run(lambda: hashlib.sha256(edit.image).hexdigest(), len(edit.image))
        return edit

    def _admit(self, edit: EditRequest, key: str, call: Call, resources: AsyncExitStack) -> CallBehaviour:
        """Check the limits and decide the behaviour, without an await between, so that no limit is exceeded."""
        limiter, now, knobs = self.limiters[key, edit.model], time.monotonic(), self.knobs
        refusal = limiter.refusal(now, rpm=knobs.rpm, concurrency=knobs.concurrency, retry_after_s=knobs.retry_after_s)
        if refusal is not None:
            raise refusal
        behaviour = self.faults.decide(knobs, edit.prompt, call.image_sha256)
        if behaviour.refusal is not None and behaviour.refusal.status == 429:
            raise behaviour.refusal
        limiter.start(now)
        resources.callback(limiter.finish)
        call.accepted = True
        return behaviour

    async def _work(
        self, request: Request, edit: EditRequest, behaviour: CallBehaviour, dialect: Dialect, call: Call
    ) -> Response:
        due = time.monotonic() + behaviour.latency_s
        if behaviour.filtered and not dialect.filters_in_answer:
            await asyncio.sleep(behaviour.latency_s)
            raise Refusal(400, "Your request was rejected by the safety system", reason="moderation")
        call.billed = True
        try:
            outputs = [await self._output(edit, behaviour, call, number) for number in range(edit.count)]
        except UnreadableImage as error:
            call.billed = False
            raise invalid(f"image does not decode: {error}", "image") from error
        if (remaining_s := due - time.monotonic()) > 0:
            await asyncio.sleep(remaining_s)
        base_url = str(request.base_url).rstrip("/")
        answer = Answer(edit, outputs, base_url, call.id, int(time.time()), filtered=bool(behaviour.filtered))
        body = await self.renderer.run(lambda: dialect.answer(answer), sum(len(output.b64) for output in outputs))
        return _send(body, dialect.headers(call.trace_id), behaviour, call)

    async def _output(self, edit: EditRequest, behaviour: CallBehaviour, call: Call, number: int) -> Output:
        seed = ((call.seed or 0) + number) % (MAX_SEED + 1)
        output_format = edit.output_format or self.knobs.output_format
        if behaviour.filtered == "yes":
            return Output(seed, "")
        size = edit.size or (edit.header.width, edit.header.height)
        if behaviour.picture == "wrong_size":
            size = _half(size[0]), _half(size[1])
        if self.knobs.fast:
            picture = await self.renderer.prepared(edit, size=size, output_format=output_format)
        else:
            picture = await self.renderer.render(edit, seed=seed, size=size, output_format=output_format)
        if behaviour.picture == "bad":
            picture = Picture(picture.data[: len(picture.data) // 2], picture.media_type)
        if edit.delivery == "b64_json":
            return Output(seed, picture.media_type, b64=await self.renderer.run(picture.b64, len(picture.data)))
        max_bytes = self.knobs.result_memory_mb * 1024 * 1024
        result = self.results.add(picture, call.id, behaviour.downloads, max_bytes)
        return Output(seed, picture.media_type, path=f"/results/{result.name}")

    def _refuse(self, refusal: Refusal, dialect: Dialect, call: Call) -> Response:
        status, body = dialect.error(refusal)
        headers = dialect.headers(call.trace_id)
        if status == 429 and refusal.reason != "quota":
            headers |= dialect.limit_headers(refusal, retry_after=self._retry_after(refusal))
        return Response(body, status, headers, _JSON)

    def _retry_after(self, refusal: Refusal) -> str:
        wait = ceil(self.knobs.retry_after_s if refusal.wait_s is None else refusal.wait_s)
        if self.knobs.retry_after == "seconds":
            return str(wait)
        if self.knobs.retry_after == "date":
            return format_datetime(datetime.now(UTC) + timedelta(seconds=wait), usegmt=True)
        return ""

    async def download(self, request: Request) -> Response:
        """Answer one download of a result."""
        result = self.results.get(request.path_params["name"])
        if result is None:
            return PlainTextResponse("no such result", 404)
        if "authorization" in request.headers:
            result.refused += 1
            return PlainTextResponse("a result's URL takes no Authorization header", 400)
        if result.picture is None:
            result.refused += 1
            return PlainTextResponse("this result has expired", 403)
        picture = result.picture
        if self.knobs.download_latency_ms:
            await asyncio.sleep(self.knobs.download_latency_ms / 1000)
        if self.downloads_to_fail or result.fail:
            if result.fail:
                result.fail -= 1
            elif self.downloads_to_fail > 0:
                self.downloads_to_fail -= 1
            result.refused += 1
            return PlainTextResponse("the storage is busy", 503)
        if result.truncate:
            result.truncate -= 1
            result.refused += 1
            return delivery.Truncated(picture.data, media_type=picture.media_type)
        result.downloads += 1
        return Response(picture.data, media_type=picture.media_type)


class _EditRoute:
    """The edit endpoint as a separate ASGI application: it needs the connection until the answer is sent."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._simulator.edit(scope, receive, send)


class SimulatorApp(Starlette):
    """The simulator as an ASGI application; its state is ``app.state.simulator``."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and add the transport to the scope for the faults that need it."""
        # Under uvicorn `send` is a method of the request cycle; only that object gives access to the transport.
        scope[delivery.TRANSPORT] = getattr(getattr(send, "__self__", None), "transport", None)
        await super().__call__(scope, receive, send)


def create_app(knobs: Knobs) -> Starlette:
    """Build a simulated endpoint with its own knobs, calls and results."""
    simulator = Simulator(knobs)
    control = ControlPlane(
        get_knobs=lambda: simulator.knobs,
        change_knobs=simulator.change_knobs,
        ledger=simulator.ledger,
        faults=simulator.faults,
        results=simulator.results,
    )
    app = SimulatorApp(
        routes=[
            Route("/v1/images/edits", _EditRoute(simulator), methods=["POST"]),
            Route("/results/{name}", simulator.download, methods=["GET"]),
            *control.routes(),
        ],
        exception_handlers={404: _wrong_path, 405: _wrong_path},
    )
    app.state.simulator = simulator
    return app


async def _parse_form(request: Request, resources: AsyncExitStack) -> FormData:
    """Read the whole multipart form, so that the connection can be reused after any answer."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        await request.body()
        raise invalid("the request must be multipart/form-data")
    try:
        return await resources.enter_async_context(request.form(max_files=32, max_fields=64))
    except HTTPException as error:
        raise invalid(f"the form cannot be read: {error.detail}") from error


def _send(body: bytes, headers: dict[str, str], behaviour: CallBehaviour, call: Call) -> Response:
    call.outcome = behaviour.fault or call.outcome
    if behaviour.fault == "garbage":
        return Response("<html><body><h1>Bad gateway</h1></body></html>", 200, headers, "text/html")
    if behaviour.fault == "truncate":
        return delivery.Truncated(body, 200, headers, _JSON)
    response = Response(body, 200, headers, _JSON)
    if behaviour.fault == "drip":
        return delivery.Dripped(response, behaviour.amount)
    if behaviour.fault == "oversized":
        return delivery.Oversized(response, behaviour.amount)
    return response


def _recorded_headers(request: Request) -> dict[str, str]:
    return {
        name: value for name, value in request.headers.items() if name.startswith("x-") or name in _RECORDED_HEADERS
    }


def _half(side: int) -> int:
    return 2 if side == 1 else (side + 1) // 2


def _plain_not_found(dialect: Dialect, call: Call) -> Response:
    return PlainTextResponse("404 page not found", 404, dialect.headers(call.trace_id))


async def _wrong_path(request: Request, exc: Exception) -> Response:  # noqa: ARG001 - the handler's signature
    return PlainTextResponse("404 page not found", 404, STEPFUN.headers(uuid4().hex))
