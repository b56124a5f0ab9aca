"""A receiver for Retouch's webhooks. It needs only Python's standard library.

    python webhook_receiver.py --secret whsec_... [--port 8787]

It verifies the signature, answers immediately, and processes each event once, even if it is delivered several times.
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
MAX_BYTES = 4 * 1024 * 1024


def verify(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Return whether the request has a valid, recent signature of Retouch.

    Args:
        secret: `whsec_…`, as shown when the endpoint was created.
        headers: headers of the request, with names in lower case.
        body: unchanged bytes of the body. Parsed and serialized JSON can have other bytes.
    """
    event_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE_S:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{event_id}.{timestamp}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    # After a rotation, there is one signature per secret. One valid signature is enough.
    return any(
        version == "v1" and hmac.compare_digest(signature.encode(), expected)
        for version, _, signature in (part.partition(",") for part in headers.get("webhook-signature", "").split())
    )


class Inbox:
    """Accepts each event once and processes the events in a thread."""

    def __init__(self) -> None:
        self._received_ids: dict[str, None] = {}
        self._lock = threading.Lock()
        self._events: queue.Queue[tuple[str, bytes]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def receive(self, event_id: str, body: bytes) -> None:
        """Queue an event. A real receiver stores the id in its database, in one transaction with the changes."""
        with self._lock:
            if event_id in self._received_ids:
                return
            self._received_ids[event_id] = None
            if len(self._received_ids) > 100_000:
                self._received_ids.pop(next(iter(self._received_ids)))
        self._events.put((event_id, body))

    def _work(self) -> None:
        while True:
            event_id, body = self._events.get()
            event = json.loads(body)
            print(event_id, event["type"], event["data"].get("id", ""), flush=True)  # noqa: T201 - its output


def serve(secret: str, port: int) -> ThreadingHTTPServer:
    """Create a server on loopback; port 0 chooses a free port."""
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_POST(self) -> None:
            length = self.headers.get("content-length", "")
            if not length.isdigit() or int(length) > MAX_BYTES:
                self.close_connection = True
                self._answer(413)
                return
            body = self.rfile.read(int(length))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if not verify(secret, headers, body):
                self._answer(401)
                return
            inbox.receive(headers["webhook-id"], body)
            self._answer(204)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Do not log requests."""

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
