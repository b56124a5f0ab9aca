"""The health check of a container, against real servers on loopback."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra.local.health import fault, main


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/livez"
        finally:
            server.shutdown()
            thread.join()


def test_a_process_that_answers_is_healthy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with answering(200) as url:
        assert main([url]) == 0
        monkeypatch.setenv("HEALTH_URL", url)
        assert main([]) == 0


def test_a_process_that_is_not_ready_is_unhealthy_with_a_reason(capsys: pytest.CaptureFixture[str]):
    with answering(503) as url:
        assert main([url]) == 1
    assert "503" in capsys.readouterr().err


def test_a_process_that_has_ended_is_unhealthy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        assert main([url]) == 1


def test_a_process_that_accepts_but_does_not_answer_is_unhealthy():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "timed out" in (fault(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.05) or "")


@pytest.mark.parametrize("url", ["", "file:///etc/hostname"])
def test_an_invalid_url_is_a_usage_error(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEALTH_URL", url)
    assert main([]) == 2


def test_the_health_check_imports_only_the_standard_library():
    with answering(204) as url:
        command = [sys.executable, "-X", "importtime", "-m", "infra.local.health"]
        result = subprocess.run(
            command, env={**os.environ, "HEALTH_URL": url}, capture_output=True, text=True, check=False
        )
    assert result.returncode == 0, result.stderr
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not {"jobs", "celery", "redis", "pydantic", "httpx"} & imported
