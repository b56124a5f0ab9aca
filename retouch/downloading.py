"""Fetching a batch's pictures into a directory: in parallel, checked, and only what is not there yet."""

import hashlib
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from retouch.client import Client
from retouch.errors import Damaged, ProblemError, RetouchError

AT_ONCE = 8
_AHEAD = 64
_EXTENSIONS: Mapping[str, str] = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_UNSAFE = re.compile(r"[^\w.@+=,()!~-]+")


@dataclass(frozen=True)
class Fetched:
    """What became of one picture: where it lies; whether it was there already; the error where it could not be had."""

    entry: dict[str, Any]
    path: Path
    was_there: bool = False
    error: RetouchError | OSError | None = None


def download(client: Client, batch_id: str, directory: Path, done: Callable[[Fetched], None]) -> list[Fetched]:
    """Fetch every picture of a batch, named by its `custom_id`. What is there and whole is not fetched again.

    Args:
        client: of the service.
        batch_id: whose pictures.
        directory: made where it is missing.
        done: called for each as it ends, one call at a time.

    Returns:
        Each picture, in manifest order.

    Raises:
        OSError: the directory cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    calling = threading.Lock()

    def one(task: tuple[dict[str, Any], Path]) -> Fetched:
        entry, path = task
        try:
            fetched = Fetched(entry, path, was_there=_is_whole(path, entry["output"]))
            if not fetched.was_there:
                _fetch(client, f"/v1/jobs/{quote(entry['id'])}/output", path, entry["output"]["sha256"])
        except (RetouchError, OSError) as error:
            fetched = Fetched(entry, path, error=error)
        with calling:
            done(fetched)
        return fetched

    found: list[Fetched] = []
    tasks = _named(client.batches.results(batch_id, state="succeeded"), directory)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        # A stretch at a time: a hundred thousand results are not held before the first is fetched.
        while stretch := list(islice(tasks, _AHEAD)):
            found += pool.map(one, stretch)
    return found


def _named(entries: Iterator[dict[str, Any]], directory: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    taken: set[str] = set()
    for entry in entries:
        extension = _EXTENSIONS.get(entry["output"]["media_type"], "bin")
        name = str(entry.get("custom_id") or entry["id"])
        pure = PurePosixPath(name)
        stem = safe_name(name[: -len(pure.suffix)] if pure.suffix.lower() in _PICTURES else name)
        file = f"{stem}.{extension}"
        if file.lower() in taken:
            file = f"{safe_name(name)}~{entry['row']}.{extension}"
        taken.add(file.lower())
        yield entry, directory / file


def safe_name(text: str) -> str:
    """`text` as a file name that no file system and no shell stumbles over; different texts stay different."""
    safe = _UNSAFE.sub("-", text)[:120].strip(".") or "-"
    return safe if safe == text else f"{safe}~{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _is_whole(path: Path, output: Mapping[str, Any]) -> bool:
    if not path.is_file() or path.stat().st_size != output["bytes"]:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == str(output["sha256"])


def _fetch(client: Client, route: str, path: Path, sha256: str | None) -> None:
    """Write what a route redirects to into a file: whole and checked, or not at all."""
    part = path.with_name(f".{path.name[:64]}.{uuid.uuid4().hex}.part")
    seen = hashlib.sha256()
    try:
        with part.open("xb") as file:
            for block in client.stored(route):
                seen.update(block)
                file.write(block)
        if sha256 is not None and seen.hexdigest() != sha256:
            raise Damaged(f"{path.name} is not what was kept: its SHA-256 differs")
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_sheet(client: Client, batch_id: str, directory: Path, fetched: list[Fetched]) -> Path:
    """Write the contact sheet: the one that the workers made, or a page over the pictures that were fetched.

    Returns:
        The page to open.
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

    def before(one: Fetched) -> str | None:
        target = inputs / one.path.name
        try:
            if not target.exists():
                _fetch(client, f"/v1/jobs/{quote(one.entry['id'])}/input", target, None)
        except (RetouchError, ProblemError, OSError):
            return None
        return f"inputs/{quote(target.name)}"

    usable = [one for one in fetched if one.error is None]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        cards = [_card(one, found) for one, found in zip(usable, pool.map(before, usable), strict=True)]
    path.write_text(_PAGE.format(title=escape(batch_id), cards="\n".join(cards)), encoding="utf-8")
    return path


def _card(one: Fetched, before: str | None) -> str:
    name = escape(str(one.entry.get("custom_id") or one.entry["id"]))
    left = f'<img loading="lazy" src="{before}" alt="{name} before">' if before else "<div>not to be had</div>"
    right = f'<img loading="lazy" src="{quote(one.path.name)}" alt="{name} after">'
    return f"<article>{left}{right}<h2>{name}</h2><p>{escape(str(one.entry.get('prompt') or ''))}</p></article>"


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
