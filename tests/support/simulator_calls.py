"""Helpers of the simulator tests: start a simulator, make pictures, send edits."""

import contextlib
import io
from collections.abc import Iterator
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from httpx import Client, Response
from PIL import Image

from infra.simulator.knobs import Knobs
from infra.simulator.serving import serve_in_thread

SKIMAGE = find_spec("skimage")
assert SKIMAGE is not None
assert SKIMAGE.submodule_search_locations
DATA = Path(SKIMAGE.submodule_search_locations[0]) / "data"
KEY = {"Authorization": "Bearer sim-key"}
STEP = "step-image-edit-2"


@contextlib.contextmanager
def simulator(**knobs: Any) -> Iterator[Client]:
    """Start a simulator on a free port; yields a client."""
    with serve_in_thread(Knobs(**knobs)) as url, Client(base_url=url, timeout=60) as client:
        yield client


def picture(width: int = 48, height: int = 32, kind: str = "PNG", colour: str = "chocolate", **save: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, kind, **save)
    return out.getvalue()


SMALL = picture()


def edit(
    client: Client,
    image: bytes = SMALL,
    headers: Any = KEY,
    files: Any = None,
    timeout: float = 60,
    **fields: str | None,
) -> Response:
    fields = {"model": STEP, "prompt": "make it blue", **fields}
    data = {name: value for name, value in fields.items() if value is not None}
    files = [("image", ("in", image))] if files is None else files
    return client.post("/v1/images/edits", data=data, files=files, headers=headers, timeout=timeout)


@contextlib.contextmanager
def under_way(client: Client, prompt: str) -> Iterator[None]:
    """Send an edit without waiting for its answer; disconnect at the end of the block."""
    request = client.build_request(
        "POST", "/v1/images/edits", data={"model": STEP, "prompt": prompt}, files={"image": SMALL}, headers=KEY
    )
    connection = HTTPConnection(request.url.host, request.url.port or 80)
    connection.request("POST", request.url.path, body=request.read(), headers=dict(request.headers))
    try:
        yield
    finally:
        connection.close()


def only(response: Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    item: dict[str, Any]
    (item,) = response.json()["data"]
    return item


def fetch(client: Client, response: Response) -> Response:
    return client.get(only(response)["url"])


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def calls(client: Client, prompt: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/_sim/calls", params={"prompt": prompt}).json()["data"]
    return found
