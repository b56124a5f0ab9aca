"""The documented receivers and the recommended libraries accept the requests that Retouch sends."""

import json
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from jobs.webhooks.delivery_reader import DeliveryFilter
from jobs.webhooks.endpoint_models import EndpointFields
from jobs.wiring import Domain
from tests.support.ended_jobs import end_job
from tests.support.paths import ROOT
from tests.support.receiver import ReceivedRequest, receiving
from tests.support.webhook_worker import webhook_runner

FILTER = DeliveryFilter()
EXAMPLES = ROOT / "infra" / "examples"
GUIDE = ROOT / "docs" / "webhooks.md"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed: only Python's receivers are tested")

CHECK_JS = """
import { readFileSync } from "node:fs";
const { secret, headers, body } = JSON.parse(readFileSync(0, "utf-8"));
const bytes = Buffer.from(body, "latin1");
const wrong = Buffer.concat([bytes, Buffer.from(" ")]);
console.log(JSON.stringify([verify(secret, headers, bytes), verify(secret, headers, wrong)]));
"""


@pytest.fixture
def sent(domain: Domain) -> tuple[str, ReceivedRequest]:
    """A secret, and a received request about a job with non-ASCII letters."""
    with receiving() as receiver, webhook_runner(domain) as webhooks:
        endpoint = domain.endpoints.create("acme", EndpointFields(url=receiver.url))
        end_job(domain, prompt="Stra\u00dfe \u2603 \U0001f45f")
        assert webhooks.deliver_all() == ["the receiver answered 200"]
        return endpoint.secret, receiver.requests[0]


def code_of(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_the_guides_python_code_accepts_a_request_and_refuses_a_changed_one(
    sent: tuple[str, ReceivedRequest],
) -> None:
    secret, got = sent
    names: dict[str, object] = {}
    exec(compile(code_of("python"), "docs/webhooks.md", "exec"), names)  # noqa: S102 - our own guide
    verify = names["verify"]
    assert callable(verify)
    assert verify(secret, got.headers, got.body)
    assert not verify(secret, got.headers, got.body + b" ")
    assert not verify(secret, {**got.headers, "webhook-timestamp": "1"}, got.body)
    assert json.loads(got.body)["data"]["prompt"] == "Stra\u00dfe \u2603 \U0001f45f"


@needs_node
def test_the_guides_node_code_accepts_a_request_and_refuses_a_changed_one(
    sent: tuple[str, ReceivedRequest], tmp_path: Path
) -> None:
    assert checked_by_node(code_of("js") + CHECK_JS, sent, tmp_path) == [True, False]


@needs_node
def test_the_npm_library_verifies_a_request(sent: tuple[str, ReceivedRequest], tmp_path: Path) -> None:
    script = tmp_path / "resolves.cjs"
    script.write_text('require.resolve("standardwebhooks")')
    if subprocess.run([str(NODE), str(script)], capture_output=True, check=False).returncode != 0:
        warnings.warn("npm's standardwebhooks is not installed: Node's own crypto was used alone", stacklevel=1)
        pytest.skip("npm's standardwebhooks is not installed (NODE_PATH names where it is)")
    library = """
    import { createRequire } from "node:module";
    const { Webhook } = createRequire(import.meta.url)("standardwebhooks");
    function verify(secret, headers, body) {
      try { new Webhook(secret).verify(body.toString("latin1"), headers); return true; } catch { return false; }
    }
    """
    assert checked_by_node(library + CHECK_JS, sent, tmp_path) == [True, False]


def checked_by_node(source: str, sent: tuple[str, ReceivedRequest], folder: Path) -> list[bool]:
    secret, got = sent
    script = folder / "check.mjs"
    script.write_text(source)
    request = json.dumps({"secret": secret, "headers": got.headers, "body": got.body.decode("latin1")})
    done = subprocess.run([str(NODE), str(script)], input=request, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: list[bool] = json.loads(done.stdout)
    return answer


@contextmanager
def running(*command: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        yield line.split()[-1], process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("language", ["python", pytest.param("node", marks=needs_node)])
def test_the_example_receiver_prints_a_repeated_event_once(domain: Domain, language: str) -> None:
    secret = domain.tenants.webhook_secret("acme")
    command = {
        "python": (sys.executable, str(EXAMPLES / "webhook_receiver.py"), "--secret", secret, "--port", "0"),
        "node": (str(NODE), str(EXAMPLES / "webhook_receiver.mjs"), secret, "0"),
    }[language]
    with running(*command) as (url, process), webhook_runner(domain) as webhooks:
        first = end_job(domain, webhook_url=url)
        assert webhooks.deliver_all() == ["the receiver answered 204"]
        (delivery,) = domain.delivery_log.page("acme", FILTER).data
        domain.deliveries.redeliver(delivery.id)
        assert webhooks.deliver_all() == ["the receiver answered 204"]
        second = end_job(domain, webhook_url=url)
        assert webhooks.deliver_all() == ["the receiver answered 204"]
        assert process.stdout is not None
        printed = [process.stdout.readline().split()[1:] for _ in range(2)]
        assert printed == [["job.succeeded", first], ["job.succeeded", second]]
        domain.tenants.rotate_webhook_secret("acme")
        end_job(domain, webhook_url=url)
        assert webhooks.deliver_all() == ["the receiver answered 204"]


def talk(url: str, sent: bytes, *, wait: bool = True) -> bytes:
    """Send bytes and close. Returns the answer's first line; with `wait` false, an empty text."""
    host, _, port = url.removeprefix("http://").strip("/").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(sent)
        return connection.recv(4096).partition(b"\r\n")[0] if wait else b""


@pytest.fixture
def node_receiver(domain: Domain, tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The Node example, started by a link to a folder with a space, and a check that it accepts events."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    shutil.copy(EXAMPLES / "webhook_receiver.mjs", folder / "receiver.mjs")
    link = tmp_path / "link.mjs"
    link.symlink_to(folder / "receiver.mjs")
    with running(str(NODE), str(link), domain.tenants.webhook_secret("acme"), "0") as (url, _):

        def takes_events() -> None:
            with webhook_runner(domain) as webhooks:
                end_job(domain, webhook_url=url)
                assert webhooks.deliver_all() == ["the receiver answered 204"]

        yield url, takes_events


@needs_node
def test_the_node_example_survives_a_client_that_disconnects(
    node_receiver: tuple[str, Callable[[], None]],
) -> None:
    url, takes_events = node_receiver
    for _ in range(3):
        talk(url, b"POST / HTTP/1.1\r\nhost: r\r\ncontent-length: 100\r\n\r\nhalf", wait=False)
    takes_events()


@needs_node
def test_the_node_example_limits_the_size_of_a_body(node_receiver: tuple[str, Callable[[], None]]) -> None:
    url, takes_events = node_receiver
    answer = talk(url, b"POST / HTTP/1.1\r\nhost: r\r\ncontent-length: 5000000\r\n\r\nx")
    assert answer == b"HTTP/1.1 413 Payload Too Large"
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    # A receiver that reads the whole body would answer 401. An aborted connection may raise an error here.
    with suppress(ConnectionError):
        answer = talk(
            url, b"POST / HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n" + chunk * 50 + b"0\r\n\r\n"
        )
        assert b"401" not in answer
    takes_events()


def test_the_example_receiver_refuses_a_signature_of_another_secret(domain: Domain) -> None:
    command = (sys.executable, str(EXAMPLES / "webhook_receiver.py"), "--port", "0", "--secret")
    with running(*command, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") as (url, _), webhook_runner(domain) as webhooks:
        end_job(domain, webhook_url=url)
        assert webhooks.deliver_all() == ["retry: the receiver answered 401"]
