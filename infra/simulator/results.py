"""The result pictures: rendered for each call or prepared for benchmarks, and stored until they expire."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from infra.simulator.edit import MEDIA_TYPES, UnreadableImage, edit_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.simulator.fault_injection import DownloadFaults
    from infra.simulator.form_parsing import EditRequest

_MAX_RESULTS = 20_000
_MAX_PREPARED = 32
_INLINE_BYTES = 1_000_000

T = TypeVar("T")


@dataclass(slots=True)
class Picture:
    """An encoded picture; a ``shared`` picture belongs to many results and does not count as their memory."""

    data: bytes
    media_type: str
    shared: bool = False
    _b64: str = ""

    def b64(self) -> str:
        """The bytes in base64; cached if the picture is shared."""
        if self._b64:
            return self._b64
        encoded = base64.b64encode(self.data).decode("ascii")
        if self.shared:
            self._b64 = encoded
        return encoded


class Renderer:
    """Renders pictures in a few threads, so that the event loop is not blocked."""

    def __init__(self) -> None:
        # A 4096x4096 edit needs a few hundred MB while it runs: run at most one for each core.
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="edit")
        self._prepared: OrderedDict[tuple[tuple[int, int], str], asyncio.Task[Picture]] = OrderedDict()

    async def run(self, work: Callable[[], T], size: int = _INLINE_BYTES) -> T:
        """Call ``work``, which handles ``size`` bytes: small work inline, large work in a thread."""
        if size < _INLINE_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def render(self, request: EditRequest, *, seed: int, size: tuple[int, int], output_format: str) -> Picture:
        """Render the edit of this image, prompt, seed and options.

        Raises:
            UnreadableImage: the image does not decode.
        """
        options = sorted(request.options.items())
        work = partial(
            edit_image,
            request.image,
            recipe=repr((request.model, request.prompt, seed, options)),
            caption=request.prompt,
            size=size,
            output_format=output_format,
        )
        return Picture(await self.run(work), MEDIA_TYPES[output_format])

    async def prepared(self, request: EditRequest, *, size: tuple[int, int], output_format: str) -> Picture:
        """The shared result for this size and format, rendered from the first request for it.

        Raises:
            UnreadableImage: the image of this request does not decode.
        """
        key = (size, output_format)
        while True:
            task = self._prepared.get(key)
            is_owner = task is None
            if task is None:
                task = asyncio.ensure_future(self._prepare(request, size, output_format))
                self._prepared[key] = task
                if len(self._prepared) > _MAX_PREPARED:
                    self._prepared.popitem(last=False)
            try:
                return await asyncio.shield(task)
            except UnreadableImage:
                if self._prepared.get(key) is task:
                    del self._prepared[key]
                if is_owner:  # if another request's image was damaged, try with this one
                    raise

    async def _prepare(self, request: EditRequest, size: tuple[int, int], output_format: str) -> Picture:
        work = partial(
            edit_image,
            request.image,
            recipe="prepared",
            caption="prepared for measurements",
            size=size,
            output_format=output_format,
        )
        return Picture(await self.run(work), MEDIA_TYPES[output_format], shared=True)


@dataclass(slots=True)
class Result:
    """A picture with a URL. ``picture`` is None after it has expired or was evicted."""

    name: str
    call_id: str
    picture: Picture | None
    bytes: int
    created: float
    expires: float
    downloads: int = 0
    refused: int = 0
    fail: int = 0
    truncate: int = 0


class Results:
    """Results by name, limited in number and in bytes; the pictures of the oldest are evicted first."""

    def __init__(self) -> None:
        self._results: OrderedDict[str, Result] = OrderedDict()
        self._with_picture: OrderedDict[str, Result] = OrderedDict()
        self._picture_bytes = 0

    def add(self, picture: Picture, call_id: str, downloads: DownloadFaults, max_bytes: int) -> Result:
        """Store a picture; ``max_bytes`` limits the memory of all pictures."""
        now = time.monotonic()
        name = f"{uuid4().hex}.{picture.media_type.partition('/')[2].replace('jpeg', 'jpg')}"
        result = Result(
            name=name,
            call_id=call_id,
            picture=picture,
            bytes=len(picture.data),
            created=now,
            expires=now + downloads.ttl_s,
            fail=downloads.fail,
            truncate=downloads.truncate,
        )
        self._results[name] = self._with_picture[name] = result
        self._picture_bytes += self._memory_of(picture)
        self._evict(now, max_bytes)
        return result

    def get(self, name: str) -> Result | None:
        """A stored result, without its picture if it has expired."""
        result = self._results.get(name)
        if result is not None and result.expires <= time.monotonic():
            self._drop_picture(result)
        return result

    def to_json(self) -> list[dict[str, Any]]:
        """Every stored result in the control plane's JSON format."""
        now = time.monotonic()
        return [
            {
                "name": result.name,
                "call_id": result.call_id,
                "bytes": result.bytes,
                "downloads": result.downloads,
                "refused": result.refused,
                "expires_in_s": round(max(0.0, result.expires - now), 3),
                "kept": result.picture is not None and result.expires > now,
            }
            for result in self._results.values()
        ]

    def _evict(self, now: float, max_bytes: int) -> None:
        while self._with_picture:
            oldest = next(iter(self._with_picture.values()))
            over = self._picture_bytes > max_bytes and len(self._with_picture) > 1
            if not over and oldest.expires > now:
                break
            self._drop_picture(oldest)
        while len(self._results) > _MAX_RESULTS:
            _, oldest = self._results.popitem(last=False)
            self._drop_picture(oldest)

    def _drop_picture(self, result: Result) -> None:
        if result.picture is not None:
            self._picture_bytes -= self._memory_of(result.picture)
            result.picture = None
        self._with_picture.pop(result.name, None)

    @staticmethod
    def _memory_of(picture: Picture) -> int:
        return 0 if picture.shared else len(picture.data)
