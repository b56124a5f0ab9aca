"""A receiver of webhooks: a real HTTP server that records requests and answers as the test wants."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook


@dataclass(frozen=True)
class ReceivedRequest:
    """One request to the receiver."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, Any]:
        """The event, its signature checked by Standard Webhooks' own library."""
        event: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return event


@dataclass(frozen=True)
class Answer:
    """An answer to one request; with `hang`, it comes when the receiver closes, after 60 s at the latest."""

    status: int = 200
    body: bytes = b"thanks"
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False


class Receiver:
    """The received requests. `answer` makes the answer from a request and its number, from 0."""

    def __init__(self) -> None:
        self.answer: Callable[[ReceivedRequest, int], Answer] = lambda _request, _number: Answer()
        self.requests: list[ReceivedRequest] = []
        self.url = ""
        self._changed = threading.Condition()
        self._closing = threading.Event()

    def handle(self, request: ReceivedRequest) -> Answer:
        with self._changed:
            number = len(self.requests)
            self.requests.append(request)
            self._changed.notify_all()
        answer = self.answer(request, number)
        if answer.hang:
            self._closing.wait(60)
        return answer

    def wait_for(
        self, condition: Callable[[list[ReceivedRequest]], bool], *, within_s: float = 120
    ) -> list[ReceivedRequest]:
        """Return the requests as soon as they meet the condition.

        It fails when no request has come for `within_s` seconds: a slow machine that makes progress may take longer.
        """
        with self._changed:
            while not condition(self.requests):
                progress = self._changed.wait(timeout=within_s)
                assert progress, f"the receiver has {len(self.requests)} requests and got none for {within_s:g} s"
            return list(self.requests)

    def close(self) -> None:
        self._closing.set()


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver on a free loopback port."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = receiver.handle(ReceivedRequest(self.path, headers, self.rfile.read(length)))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        receiver.close()
        server.shutdown()
        server.server_close()
        thread.join()
