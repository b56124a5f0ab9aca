"""A receiver of Retouch's webhooks, with nothing but Python's standard library.

    python webhook_receiver.py --secret whsec_... [--port 8787]

It checks the signature, answers at once, tells each event once however often it comes, and does its work afterwards.
"""

import argparse
import base64
import hashlib
import hmac
import json
import queue
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE_S = 300
MOST_BYTES = 4 * 1024 * 1024


def verify(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Whether a request comes from Retouch, unchanged and not long ago.

    Args:
        secret: `whsec_…`, as it was shown when the endpoint was made.
        headers: of the request, names in lower case.
        body: the very bytes that came; JSON that was parsed and written again is other bytes.
    """
    event_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE_S:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{event_id}.{timestamp}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    # After a rotation there are two signatures, one for each secret; one that fits is enough.
    return any(
        version == "v1" and hmac.compare_digest(signature.encode(), expected)
        for version, _, signature in (part.partition(",") for part in headers.get("webhook-signature", "").split())
    )


class Inbox:
    """Takes events, each once, and works on them in a thread of its own."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}
        self._lock = threading.Lock()
        self._events: queue.Queue[tuple[str, bytes]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def take(self, event_id: str, body: bytes) -> None:
        """Note an event. A real receiver keeps the id where its data is, in one transaction with what follows."""
        with self._lock:
            if event_id in self._seen:
                return
            self._seen[event_id] = None
            if len(self._seen) > 100_000:
                self._seen.pop(next(iter(self._seen)))
        self._events.put((event_id, body))

    def _work(self) -> None:
        while True:
            event_id, body = self._events.get()
            event = json.loads(body)
            print(event_id, event["type"], event["data"].get("id", ""), flush=True)  # noqa: T201 - its work


def serve(secret: str, port: int) -> ThreadingHTTPServer:
    """A server on loopback; port 0 takes a free one."""
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_POST(self) -> None:
            length = self.headers.get("content-length", "")
            if not length.isdigit() or int(length) > MOST_BYTES:
                self.close_connection = True
                self._answer(413)
                return
            body = self.rfile.read(int(length))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if not verify(secret, headers, body):
                self._answer(401)
                return
            inbox.take(headers["webhook-id"], body)
            self._answer(204)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Events are told, requests are not."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description="Receive Retouch's webhooks.")
    parser.add_argument("--secret", required=True, help="whsec_…")
    parser.add_argument("--port", type=int, default=8787)
    options = parser.parse_args()
    server = serve(options.secret, options.port)
    print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)  # noqa: T201
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
