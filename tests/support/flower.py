"""Flower for tests: a separate process with basic auth, and a client of its HTTP API."""

import sys
from pathlib import Path
from typing import Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from infra.local.harness import Process, environment_of
from infra.local.ports import Ports
from jobs.foundation.settings import Settings

LOGIN = ("watcher", "flower-password-1")


def scraped(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Scrape a target; returns its samples by name and labels."""
    text = httpx.get(url, trust_env=False, timeout=30).raise_for_status().text
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def total(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    wanted = set(labels.items())
    return sum(value for (metric, have), value in samples.items() if metric == name and wanted <= have)


class Flower:
    """One Flower process; its database and log are in `directory`."""

    def __init__(self, settings: Settings, directory: Path, *arguments: str, prefix: str = "") -> None:
        port = Ports().choose("flower")
        self.root = f"http://127.0.0.1:{port}{prefix}"
        command = [sys.executable, "-m", "retouch", "flower", "--port", str(port)]
        command += ["--db", str(directory / "seen" / "flower"), *arguments]
        environment = environment_of(settings, FLOWER_BASIC_AUTH=":".join(LOGIN))
        self.log = directory / "flower.log"
        self._process = Process(command, self.log, environment)

    def __enter__(self) -> Self:
        self._process.wait_until(self._answers)
        return self

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.root}/healthcheck", trust_env=False, timeout=60).status_code == 200
        except httpx.TransportError:
            return False

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop Flower with SIGTERM, as a supervisor does; Flower then saves its database."""
        self._process.close(grace_s=30)

    def get(self, path: str, **query: str) -> Any:
        """GET a path of Flower's API; returns the JSON body."""
        return (
            httpx.get(self.root + path, params=query, auth=LOGIN, trust_env=False, timeout=60).raise_for_status().json()
        )

    def tasks(self) -> dict[str, dict[str, Any]]:
        """All tasks that Flower knows, by id."""
        tasks: dict[str, dict[str, Any]] = self.get("/api/tasks", limit="5000")
        return tasks

    def sees(self, worker: str) -> bool:
        """Whether Flower receives a worker's events."""
        return total(scraped(f"{self.root}/metrics"), "flower_worker_online", worker=worker) == 1
