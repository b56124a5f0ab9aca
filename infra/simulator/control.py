"""The control plane: knobs, calls and results, under ``/_sim``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import ValidationError
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from infra.simulator.knobs import Knobs
from infra.simulator.ledger import shown

if TYPE_CHECKING:
    from starlette.requests import Request

    from infra.simulator.app import Simulator


def routes(simulator: Simulator) -> list[Route]:
    """The control plane's routes over one simulator, and ``/livez``."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def read_knobs(_: Request) -> Response:
        return JSONResponse(simulator.knobs.model_dump(mode="json"))

    async def turn_knobs(request: Request) -> Response:
        try:
            given = json.loads(await request.body())
            if not isinstance(given, dict):
                return JSONResponse({"error": "the body must be an object of knobs"}, 422)
            knobs = Knobs.model_validate(simulator.knobs.model_dump() | given)
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, 422)
        except ValueError:
            return JSONResponse({"error": "the body must be JSON"}, 422)
        simulator.turn(knobs, set(given))
        return JSONResponse(knobs.model_dump(mode="json"))

    async def read_calls(request: Request) -> Response:
        query = request.query_params
        calls = simulator.ledger.select(prompt=query.get("prompt", ""), model=query.get("model", ""))
        if query.get("summary") in {"1", "true"}:
            return JSONResponse(simulator.ledger.summary(calls))
        return JSONResponse({"data": [shown(call) for call in calls]})

    async def clear_calls(_: Request) -> Response:
        simulator.ledger.clear()
        simulator.conductor.forget()
        return Response(status_code=204)

    async def read_results(_: Request) -> Response:
        results = simulator.results.shown()
        return JSONResponse({"downloads": sum(result["downloads"] for result in results), "data": results})

    return [
        Route("/livez", livez),
        Route("/_sim/knobs", read_knobs, methods=["GET"]),
        Route("/_sim/knobs", turn_knobs, methods=["PATCH"]),
        Route("/_sim/calls", read_calls, methods=["GET"]),
        Route("/_sim/calls", clear_calls, methods=["DELETE"]),
        Route("/_sim/results", read_results, methods=["GET"]),
    ]
