"""Takes screenshots of a running Flower for the documentation, with headless Chromium.

    FLOWER_BASIC_AUTH=user:password python -m infra.flower.screenshots http://127.0.0.1:5555 docs/images

`retouch up` writes the login and the URL to `local.env`. Chromium gets the password in its command line, which every
user of the machine can read. So use a Flower whose password is not secret.
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
"""Size of the window in pixels. `TALL` ends above the traceback of a task, which shows local paths."""
WAIT_MS = 6000
"""Time for the requests of a page after it has loaded."""


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("url", help="URL of Flower, with its prefix if it has one")
    parser.add_argument("directory", type=Path, help="directory for the pictures")
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
        target.write_bytes(_quantized(_screenshot(address + path, TALL if name == "task" else HEIGHT)))
        print(f"{target}: {target.stat().st_size / 1024:.0f} KB")  # noqa: T201 - this is its output


def _pages(client: httpx.Client, root: str) -> dict[str, str]:
    """Return the paths of the pages: all workers, the busiest worker, all tasks, and a failed task."""
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


def _screenshot(url: str, height: int) -> bytes:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "screenshot.png"
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


def _quantized(data: bytes) -> bytes:
    """Reduce the picture to 64 colours, which makes the file small. A page has few colours."""
    output = BytesIO()
    Image.open(BytesIO(data)).convert("RGB").quantize(64).save(output, "PNG", optimize=True)
    return output.getvalue()


if __name__ == "__main__":
    main()
