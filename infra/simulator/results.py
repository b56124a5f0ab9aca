"""The pictures: made by the edit, prepared for measurements, kept until they expire."""

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

from infra.simulator.edit import MEDIA_TYPES, Unreadable, edit_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.simulator.fault_injection import Downloads
    from infra.simulator.form_parsing import EditRequest

_REMEMBERED = 20_000
_PREPARED = 32
_LARGE = 1_000_000

T = TypeVar("T")


@dataclass(slots=True)
class Picture:
    """Encoded bytes; ``shared`` ones belong to no single result and do not count against the memory."""

    data: bytes
    media_type: str
    shared: bool = False
    _b64: str = ""

    def b64(self) -> str:
        """The bytes in base64; kept where the picture is shared."""
        if self._b64:
            return self._b64
        encoded = base64.b64encode(self.data).decode("ascii")
        if self.shared:
            self._b64 = encoded
        return encoded


class Studio:
    """Makes pictures in a few threads, so that the event loop stays free."""

    def __init__(self) -> None:
        # A 4096x4096 edit holds a few hundred MB while it is made: no more at once than there are cores.
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="edit")
        self._prepared: OrderedDict[tuple[tuple[int, int], str], asyncio.Task[Picture]] = OrderedDict()

    async def run(self, work: Callable[[], T], size: int = _LARGE) -> T:
        """Do work on ``size`` bytes: in one of the threads, or here where handing it over would cost more."""
        if size < _LARGE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def make(self, request: EditRequest, *, seed: int, size: tuple[int, int], output_format: str) -> Picture:
        """Make the edit of this very image, prompt, seed and options.

        Raises:
            Unreadable: the image does not decode.
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
        """The one result for this size and format: an edit of the first image that asked for it.

        Raises:
            Unreadable: that first image does not decode.
        """
        key = (size, output_format)
        while True:
            task = self._prepared.get(key)
            ours = task is None
            if task is None:
                task = asyncio.ensure_future(self._prepare(request, size, output_format))
                self._prepared[key] = task
                if len(self._prepared) > _PREPARED:
                    self._prepared.popitem(last=False)
            try:
                return await asyncio.shield(task)
            except Unreadable:
                if self._prepared.get(key) is task:
                    del self._prepared[key]
                if ours:  # another caller's damaged image says nothing about this one
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
    """A picture under a URL. ``picture`` is None once it expired or had to make room."""

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
    """Results by name, bounded in number and in bytes; the oldest lose their picture first."""

    def __init__(self) -> None:
        self._results: OrderedDict[str, Result] = OrderedDict()
        self._with_picture: OrderedDict[str, Result] = OrderedDict()
        self._held = 0

    def add(self, picture: Picture, call_id: str, downloads: Downloads, memory: int) -> Result:
        """Keep a picture; ``memory`` is the most bytes that all of them may hold."""
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
        self._held += self._weight(picture)
        self._make_room(now, memory)
        return result

    def get(self, name: str) -> Result | None:
        """A result that is remembered, without its picture if it has expired."""
        result = self._results.get(name)
        if result is not None and result.expires <= time.monotonic():
            self._strip(result)
        return result

    def shown(self) -> list[dict[str, Any]]:
        """Every remembered result as the control plane shows it."""
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

    def _make_room(self, now: float, memory: int) -> None:
        while self._with_picture:
            oldest = next(iter(self._with_picture.values()))
            over = self._held > memory and len(self._with_picture) > 1
            if not over and oldest.expires > now:
                break
            self._strip(oldest)
        while len(self._results) > _REMEMBERED:
            _, gone = self._results.popitem(last=False)
            self._strip(gone)

    def _strip(self, result: Result) -> None:
        if result.picture is not None:
            self._held -= self._weight(result.picture)
            result.picture = None
        self._with_picture.pop(result.name, None)

    @staticmethod
    def _weight(picture: Picture) -> int:
        return 0 if picture.shared else len(picture.data)
