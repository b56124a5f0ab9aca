"""Upload local images for a batch, in parallel. A repeated command uploads only the missing ones."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from retouch.client import Client

CONCURRENCY = 6


def cache_directory() -> Path:
    """The directory of the records of finished uploads."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retouch" / "uploads"


class Uploads:
    """The uploads of a set of files for one service and one set of batch fields, recorded in a local file.

    The same unchanged files with the same fields find the same record, so an interrupted command can continue.

    Args:
        url: the service's URL.
        files: the images.
        fields: the fields of the batch.
        fresh: delete the record of earlier uploads.
    """

    def __init__(self, url: str, files: Sequence[Path], fields: Mapping[str, Any], *, fresh: bool = False) -> None:
        self._files = files
        stats = [(str(path.absolute()), path.stat()) for path in files]
        listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        identity = json.dumps([url, listing, dict(fields)], sort_keys=True, default=str)
        self.digest = hashlib.sha256(identity.encode()).hexdigest()
        self._path = cache_directory() / f"{self.digest[:32]}.jsonl"
        self._lock = threading.Lock()
        self._uploaded: dict[str, str] = {}
        self.batch_id: str | None = None
        if fresh:
            self._path.unlink(missing_ok=True)
        self._load()

    def _load(self) -> None:
        if not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the command was killed while it wrote this line
            if "batch" in entry:
                self.batch_id = entry["batch"]
            else:
                self._uploaded[entry["file"]] = entry["image"]

    def run(self, client: Client, done: Callable[[Path], None]) -> list[dict[str, str]]:
        """Upload the missing files; returns the batch's items in the order of the files.

        Raises:
            OSError: a file cannot be read.
            retouch.RetouchError: the service or its store refuses a file.
        """

        def upload(path: Path) -> dict[str, str]:
            name = str(path.absolute())
            image = self._uploaded.get(name)
            if image is None:
                image = client.upload(path)
                self._append({"file": name, "image": image})
                self._uploaded[name] = image
            done(path)
            return {"custom_id": path.name, "image": image}

        with ThreadPoolExecutor(CONCURRENCY) as pool:
            try:
                return list(pool.map(upload, self._files))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def submitted(self, batch_id: str) -> None:
        """Record the batch, so that a repeated command shows it instead of a second one."""
        self.batch_id = batch_id
        self._append({"batch": batch_id})

    def _append(self, entry: Mapping[str, str]) -> None:
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
