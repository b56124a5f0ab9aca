"""Uploading local pictures for a batch: in parallel, and never twice, however often the command is run."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from retouch.client import Client

AT_ONCE = 6


def cache_directory() -> Path:
    """Where the command remembers what it has uploaded."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retouch" / "uploads"


class Uploads:
    """What was uploaded of one set of files for one service and one set of options; kept in a file.

    The same files, unchanged, with the same options are the same set: an interrupted command goes on where it was.

    Args:
        url: of the service.
        files: the pictures.
        fields: of the batch.
        fresh: forget what was uploaded before.
    """

    def __init__(self, url: str, files: Sequence[Path], fields: Mapping[str, Any], *, fresh: bool = False) -> None:
        self._files = files
        stats = [(str(path.absolute()), path.stat()) for path in files]
        listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        meaning = json.dumps([url, listing, dict(fields)], sort_keys=True, default=str)
        self.digest = hashlib.sha256(meaning.encode()).hexdigest()
        self._path = cache_directory() / f"{self.digest[:32]}.jsonl"
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
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
                self._known[entry["file"]] = entry["image"]

    @property
    def there(self) -> int:
        """How many were uploaded before."""
        return len(self._known)

    def run(self, client: Client, done: Callable[[Path], None]) -> list[dict[str, str]]:
        """Upload what is missing; returns the batch's items in the order of the files.

        Raises:
            OSError: a file cannot be read.
            retouch.RetouchError: the service or its store does not take one.
        """

        def one(path: Path) -> dict[str, str]:
            name = str(path.absolute())
            image = self._known.get(name)
            if image is None:
                image = client.upload(path)
                self._remember({"file": name, "image": image})
                self._known[name] = image
            done(path)
            return {"custom_id": path.name, "image": image}

        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                return list(pool.map(one, self._files))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def submitted(self, batch_id: str) -> None:
        """The batch was made: the same command shows it from now on."""
        self.batch_id = batch_id
        self._remember({"batch": batch_id})

    def _remember(self, entry: Mapping[str, str]) -> None:
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
