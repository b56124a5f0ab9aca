"""The control plane: knobs, calls and results, under ``/_sim``, and ``/livez``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infra.simulator.knobs import Knobs
from infra.simulator.ledger import call_to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from infra.simulator.fault_injection import FaultInjector
    from infra.simulator.ledger import Ledger
    from infra.simulator.results import Results


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The control plane of one simulator.

    Attributes:
        get_knobs: returns the current knobs.
        change_knobs: applies new knobs; its second argument has the names of the fields that were sent.
        faults: its counts of directives are reset together with the calls.
    """

    get_knobs: Callable[[], Knobs]
    change_knobs: Callable[[Knobs, set[str]], None]
    ledger: Ledger
    faults: FaultInjector
    results: Results

    def routes(self) -> list[Route]:
        """The routes to add to the application."""
        return [
            Route("/livez", _livez),
            Route("/_sim/knobs", self._read_knobs, methods=["GET"]),
            Route("/_sim/knobs", self._update_knobs, methods=["PATCH"]),
            Route("/_sim/calls", self._read_calls, methods=["GET"]),
            Route("/_sim/calls", self._clear_calls, methods=["DELETE"]),
            Route("/_sim/results", self._read_results, methods=["GET"]),
        ]

    async def _read_knobs(self, _: Request) -> Response:
        return JSONResponse(self.get_knobs().model_dump(mode="json"))

    async def _update_knobs(self, request: Request) -> Response:
        try:
            changes = json.loads(await request.body())
            if not isinstance(changes, dict):
                return JSONResponse({"error": "the body must be an object of knobs"}, 422)
            knobs = Knobs.model_validate(self.get_knobs().model_dump() | changes)
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, 422)
        except ValueError:
            return JSONResponse({"error": "the body must be JSON"}, 422)
        self.change_knobs(knobs, set(changes))
        return JSONResponse(knobs.model_dump(mode="json"))

    async def _read_calls(self, request: Request) -> Response:
        query = request.query_params
        calls = self.ledger.select(prompt=query.get("prompt", ""), model=query.get("model", ""))
        if query.get("summary") in {"1", "true"}:
            return JSONResponse(self.ledger.summary(calls))
        return JSONResponse({"data": [call_to_json(call) for call in calls]})

    async def _clear_calls(self, _: Request) -> Response:
        self.ledger.clear()
        self.faults.reset()
        return Response(status_code=204)

    async def _read_results(self, _: Request) -> Response:
        results = self.results.to_json()
        return JSONResponse({"downloads": sum(result["downloads"] for result in results), "data": results})


async def _livez(_: Request) -> Response:
    return PlainTextResponse("ok")
