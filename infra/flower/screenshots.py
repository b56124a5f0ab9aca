"""Pictures of Flower's pages for the documentation, taken by headless Chromium of a Flower that runs.

    FLOWER_BASIC_AUTH=user:password python -m infra.flower.screenshots http://127.0.0.1:5555 docs/images

`retouch up` writes both into `local.env`. The password is a part of the address that Chromium is given, where every
user of this machine can read it meanwhile: take them of a Flower whose password may be known.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT, TALL = 1700, 820, 925
"""Of a window; the tall one ends above a task's traceback, which would show where the workers are installed."""
WAIT_MS = 6000
"""For what a page asks for after it was loaded."""


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("url", help="of Flower, with its prefix if it has one")
    parser.add_argument("directory", type=Path, help="where the pictures go")
    options = parser.parse_args()
    login = os.environ["FLOWER_BASIC_AUTH"].split(",")[0]
    user, _, password = login.partition(":")
    root = options.url.rstrip("/")
    options.directory.mkdir(parents=True, exist_ok=True)
    with httpx.Client(auth=(user, password), trust_env=False, timeout=30) as client:
        pages = _pages(client, root)
    parts = urlsplit(root)
    address = f"{parts.scheme}://{quote(user)}:{quote(password)}@{parts.netloc}{parts.path}"
    for name, path in pages.items():
        target = options.directory / f"flower-{name}.png"
        target.write_bytes(_smaller(_shot(address + path, TALL if name == "task" else HEIGHT)))
        print(f"{target}: {target.stat().st_size / 1024:.0f} KB")  # noqa: T201 - this is its output


def _pages(client: httpx.Client, root: str) -> dict[str, str]:
    """The pages worth showing: all workers, the busiest one, all tasks, and one that failed."""
    tasks = client.get(f"{root}/api/tasks", params={"limit": "500"}).raise_for_status().json()
    failed = [task_id for task_id, task in tasks.items() if task["state"] == "FAILURE"]
    retried = [task_id for task_id, task in tasks.items() if task["state"] == "RETRY"]
    workers = [task["worker"] for task in tasks.values() if task.get("worker") and task["name"] == "edit"]
    pages = {"tasks": "/tasks", "workers": "/workers"}
    if workers:
        pages["worker"] = f"/worker/{quote(max(set(workers), key=workers.count))}"
    for task_id in (failed + retried)[:1]:
        pages["task"] = f"/task/{quote(task_id)}"
    return pages


def _shot(url: str, height: int) -> bytes:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "shot.png"
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
            f"--window-size={WIDTH},{height}",
            f"--virtual-time-budget={WAIT_MS}",
            f"--screenshot={picture}",
            url,
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=90)  # noqa: S603 - our own command
        return picture.read_bytes()


def _smaller(data: bytes) -> bytes:
    """The same picture in 64 colours: a page has few, and the repository keeps it for ever."""
    held = BytesIO()
    Image.open(BytesIO(data)).convert("RGB").quantize(64).save(held, "PNG", optimize=True)
    return held.getvalue()


if __name__ == "__main__":
    main()
