"""Download a batch's images into a directory, in parallel. Complete files are not downloaded again."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from retouch.atomic_file import write_atomically
from retouch.client import Client
from retouch.errors import Damaged, RetouchError

CONCURRENCY = 8
_CHUNK = 64
"""Results that are read before their images are downloaded."""
_EXTENSIONS: Mapping[str, str] = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_UNSAFE = re.compile(r"[^\w.@+=,()!~-]+")


@dataclass(frozen=True)
class Fetched:
    """One image of a batch.

    Attributes:
        entry: the job in the results.
        path: the local file.
        existed: whether the complete file existed before.
        error: why the image could not be downloaded.
    """

    entry: dict[str, Any]
    path: Path
    existed: bool = False
    error: RetouchError | OSError | None = None


def download(client: Client, batch_id: str, directory: Path, done: Callable[[Fetched], None]) -> list[Fetched]:
    """Download every image of a batch, named by its `custom_id`. Complete files are not downloaded again.

    Args:
        client: the client of the service.
        batch_id: the batch.
        directory: created if it is missing.
        done: called after each image, one call at a time.

    Returns:
        Each image, in manifest order.

    Raises:
        OSError: the directory cannot be created.
    """
    directory.mkdir(parents=True, exist_ok=True)
    callback_lock = threading.Lock()

    def fetch(target: tuple[dict[str, Any], Path]) -> Fetched:
        entry, path = target
        try:
            fetched = Fetched(entry, path, existed=_is_complete(path, entry["output"]))
            if not fetched.existed:
                _download(client, f"/v1/jobs/{quote(entry['id'])}/output", path, entry["output"]["sha256"])
        except (RetouchError, OSError) as error:
            fetched = Fetched(entry, path, error=error)
        with callback_lock:
            done(fetched)
        return fetched

    fetched_images: list[Fetched] = []
    targets = _with_paths(client.batches.results(batch_id, state="succeeded"), directory)
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        # In chunks: a hundred thousand results must not be in memory before the first download starts.
        while chunk := list(islice(targets, _CHUNK)):
            fetched_images += pool.map(fetch, chunk)
    return fetched_images


def _with_paths(entries: Iterator[dict[str, Any]], directory: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    used: set[str] = set()
    for entry in entries:
        extension = _EXTENSIONS.get(entry["output"]["media_type"], "bin")
        name = str(entry.get("custom_id") or entry["id"])
        pure = PurePosixPath(name)
        stem = safe_name(name[: -len(pure.suffix)] if pure.suffix.lower() in _PICTURES else name)
        file = f"{stem}.{extension}"
        if file.lower() in used:
            file = f"{safe_name(name)}~{entry['row']}.{extension}"
        used.add(file.lower())
        yield entry, directory / file


def safe_name(text: str) -> str:
    """`text` as a file name that is safe in every file system and shell. Different texts get different names."""
    safe = _UNSAFE.sub("-", text)[:120].strip(".") or "-"
    return safe if safe == text else f"{safe}~{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _is_complete(path: Path, output: Mapping[str, Any]) -> bool:
    if not path.is_file() or path.stat().st_size != output["bytes"]:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == str(output["sha256"])


def _download(client: Client, route: str, path: Path, sha256: str | None) -> None:
    """Download the object that a route redirects to, and check its SHA-256."""
    digest = hashlib.sha256()
    with write_atomically(path) as file:
        for block in client.stored(route):
            digest.update(block)
            file.write(block)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise Damaged(f"{path.name} is damaged: its SHA-256 does not match")


def write_sheet(client: Client, batch_id: str, directory: Path, fetched: list[Fetched]) -> Path:
    """Write the contact sheet: download the workers' pages, or create a page from the downloaded images.

    Returns:
        The path of the first page.
    """
    path = directory / "sheet.html"
    first = client.batches.sheet_page(batch_id, 1)
    if first is not None:
        path.write_bytes(first)
        number = 2
        while (page := client.batches.sheet_page(batch_id, number)) is not None:
            (directory / f"sheet-{number:03d}.html").write_bytes(page)
            number += 1
        return path
    inputs = directory / "inputs"
    inputs.mkdir(exist_ok=True)

    def download_input(image: Fetched) -> str | None:
        target = inputs / image.path.name
        try:
            if not target.exists():
                _download(client, f"/v1/jobs/{quote(image.entry['id'])}/input", target, None)
        except (RetouchError, OSError):
            return None
        return f"inputs/{quote(target.name)}"

    complete = [image for image in fetched if image.error is None]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        before = pool.map(download_input, complete)
        cards = [_card(image, source) for image, source in zip(complete, before, strict=True)]
    path.write_text(_PAGE.format(title=escape(batch_id), cards="\n".join(cards)), encoding="utf-8")
    return path


def _card(image: Fetched, before: str | None) -> str:
    name = escape(str(image.entry.get("custom_id") or image.entry["id"]))
    left = f'<img loading="lazy" src="{before}" alt="{name} before">' if before else "<div>not available</div>"
    right = f'<img loading="lazy" src="{quote(image.path.name)}" alt="{name} after">'
    return f"<article>{left}{right}<h2>{name}</h2><p>{escape(str(image.entry.get('prompt') or ''))}</p></article>"


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem}}
main{{display:grid;grid-template-columns:repeat(auto-fill,minmax(380px,1fr));gap:1rem}}
article{{border:1px solid #8886;border-radius:10px;padding:.8rem;display:grid;grid-template-columns:1fr 1fr;gap:.4rem}}
img,article div{{width:100%;height:180px;object-fit:contain;background:#8882}}
h2,p{{grid-column:1/3;margin:0;font-size:1rem;overflow-wrap:anywhere}}p{{opacity:.7}}</style>
<h1>{title}</h1><p>before | after</p><main>
{cards}
</main></html>
"""
