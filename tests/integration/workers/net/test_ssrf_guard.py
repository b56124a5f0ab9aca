"""The guard against private addresses and the limits of HTTP answers, with real sockets."""

import contextlib
import gzip
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jobs.foundation.settings import parse_networks
from tests.support.loopback import Request, answer, reset, serve
from workers.net.http import BadRedirect, BodyLost, Http, Reach, Reply, Stopped, TooLong
from workers.net.ssrf_guard import AddressRefused, Resolve

LOOPBACK = parse_networks("127.0.0.0/8,::1/128")
OK = answer(200, b"hello")


def get(http: Http, url: str, reach: Reach = Reach.USER, **options: object) -> Reply:
    bounds: dict[str, object] = {"deadline_s": 10, "max_bytes": 1000, **options}
    return http.exchange("GET", url, reach=reach, **bounds)  # type: ignore[arg-type]


def always(*addresses: str) -> Resolve:
    """A resolver that answers the same for every name."""
    return lambda _host, _port: addresses


def refused(http: Http, url: str, reach: Reach = Reach.USER, **options: object) -> None:
    with pytest.raises(AddressRefused):
        get(http, url, reach, **options)


def test_a_name_that_resolves_to_a_private_address_is_refused_before_sending() -> None:
    with serve(OK) as server:
        for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "64:ff9b::7f00:1"):
            http = Http(resolve=always(address))
            refused(http, f"https://pictures.example:{server.port}/a.png")
            refused(http, f"http://pictures.example:{server.port}/a.png", Reach.PUBLIC)
        assert server.connections == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "169.254.169.254", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"]
)
def test_a_private_address_in_the_url_is_refused(host: str) -> None:
    with serve(OK) as server:
        http = Http(resolve=always("127.0.0.1"))
        refused(http, f"https://{host}:{server.port}/")
        refused(http, f"http://{host}:{server.port}/", Reach.PUBLIC)
        assert server.connections == 0


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    resolutions: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        resolutions.append(host)
        return ["127.0.0.1"] if len(resolutions) == 1 else ["169.254.169.254"]

    with serve(OK) as server:
        reply = get(Http(LOOPBACK, resolve=rebinding), f"http://pictures.example:{server.port}/a.png")
        assert reply.body == b"hello"
        assert resolutions == ["pictures.example"]
        assert server.requests[0].headers["host"] == f"pictures.example:{server.port}"


def test_of_several_addresses_only_those_that_may_be_reached_are_tried() -> None:
    with serve(OK) as server:
        http = Http(LOOPBACK, resolve=always("169.254.169.254", "127.0.0.9", "127.0.0.1"))
        # 127.0.0.9 does not listen: the next one is tried.
        assert get(http, f"http://pictures.example:{server.port}/").status == 200


def test_an_ipv6_address_is_reached_where_it_is_allowed() -> None:
    with serve(OK, socket.AF_INET6) as server:
        url = f"http://[::1]:{server.port}/"
        assert get(Http(LOOPBACK), url).status == 200
        refused(Http(), url, Reach.PUBLIC)


def test_without_tls_a_user_reaches_only_private_networks_that_are_allowed() -> None:
    http = Http(LOOPBACK, resolve=always("93.184.216.34"))
    with pytest.raises(AddressRefused):
        get(http, "http://pictures.example/a.png")
    with pytest.raises(AddressRefused, match="scheme"):
        get(Http(), "http://pictures.example/a.png")


def test_every_redirect_is_guarded_too() -> None:
    with serve(OK) as inner:
        targets = {
            "/private": f"http://10.0.0.1:{inner.port}/",
            "/metadata": "http://169.254.169.254/latest/meta-data/",
            "/mapped": f"http://[::ffff:10.0.0.1]:{inner.port}/",
            "/name": f"http://internal.example:{inner.port}/",
            "/file": "file:///etc/passwd",
        }

        def redirect(connection: socket.socket, request: Request) -> None:
            connection.sendall(answer(302, location=targets[request.path]))

        addresses = {"pictures.example": "127.0.0.1", "internal.example": "10.0.0.1"}
        http = Http(parse_networks("127.0.0.0/8"), resolve=lambda host, _port: [addresses[host]])
        with serve(redirect) as server:
            for path in targets:
                refused(http, f"http://pictures.example:{server.port}{path}", hops=4)
            assert len(server.requests) == len(targets)
        assert inner.connections == 0


def test_redirects_are_followed_so_far_and_no_further() -> None:
    def redirect(connection: socket.socket, request: Request) -> None:
        left = int(request.path[1:])
        connection.sendall(answer(302, location=f"/{left - 1}") if left else OK)

    with serve(redirect) as server:
        http = Http(LOOPBACK)
        assert get(http, f"{server.url}/3", hops=3).body == b"hello"
        with pytest.raises(BadRedirect):
            get(http, f"{server.url}/4", hops=3)
        assert get(http, f"{server.url}/1").status == 302


def test_a_trusted_host_is_reached_wherever_it_is_but_not_its_neighbours() -> None:
    with serve(OK) as inner:
        location = f"http://127.0.0.2:{inner.port}/"
        with serve(answer(302, location=location)) as server:
            http = Http()
            assert get(http, f"{server.url}/", Reach.PUBLIC, trusted_host="127.0.0.1").status == 302
            refused(http, f"{server.url}/", Reach.PUBLIC, trusted_host="127.0.0.1", hops=1)
        assert inner.connections == 0


def test_the_operators_own_endpoint_may_be_private() -> None:
    with serve(OK) as server:
        assert get(Http(), server.url, Reach.OPERATOR).body == b"hello"


def test_proxies_from_the_environment_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(answer(200, b"proxy")) as proxy, serve(OK) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert get(Http(), server.url, Reach.OPERATOR).body == b"hello"
        assert proxy.connections == 0


def drip(parts: bytes, head: bytes = b""):
    """Answers a byte at a time until the client goes."""
    gone = threading.Event()

    def script(connection: socket.socket, request: Request) -> None:
        connection.sendall(head)
        with contextlib.suppress(OSError):
            while True:
                for byte in parts:
                    connection.sendall(bytes([byte]))
                    gone.wait(0.02)
        gone.set()

    return script, gone


@pytest.mark.parametrize(
    ("parts", "head", "failure"),
    [
        (b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n", BodyLost),
        (b"x: y\r\n", b"HTTP/1.1 200 OK\r\n", httpx.ReadTimeout),
        (b"H", b"", (httpx.ReadTimeout, httpx.RemoteProtocolError)),
    ],
    ids=["body", "headers", "status line"],
)
def test_a_drip_ends_with_the_deadline_of_the_whole_exchange(parts: bytes, head: bytes, failure) -> None:
    script, gone = drip(parts, head)
    with serve(script) as server:
        with pytest.raises(failure):
            get(Http(), server.url, Reach.OPERATOR, deadline_s=1.5)
        assert gone.wait(60), "the connection was not let go"


def test_a_server_that_takes_no_bytes_ends_with_the_deadline() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(httpx.WriteTimeout):
            Http().exchange("POST", url, reach=Reach.OPERATOR, deadline_s=1, max_bytes=10, content=bytes(50_000_000))


def test_a_resolver_that_does_not_answer_ends_with_the_deadline() -> None:
    answered = threading.Event()

    def slow(host: str, port: int) -> list[str]:
        answered.wait(30)
        return ["127.0.0.1"]

    with pytest.raises(httpx.ConnectTimeout):
        get(Http(LOOPBACK, resolve=slow), "http://pictures.example/", deadline_s=0.3)
    answered.set()


def test_a_deadline_does_not_reach_into_the_next_exchange() -> None:
    with serve(OK) as server:
        http = Http()
        get(http, server.url, Reach.OPERATOR, deadline_s=1.5)
        passed = time.monotonic() + 1.6
        while time.monotonic() < passed:
            threading.Event().wait(0.05)
        assert get(http, server.url, Reach.OPERATOR).status == 200
        assert server.connections == 1


@pytest.mark.parametrize(
    "bytes_",
    [
        answer(200, b"x" * 1001),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n",
        answer(200, gzip.compress(bytes(1001)), content_encoding="gzip"),
        answer(200, gzip.compress(bytes(100_000_000)[:50_000_000], 9)[:900], content_encoding="gzip"),
    ],
    ids=["length", "chunked", "announced", "packed", "bomb"],
)
def test_an_answer_that_is_too_long_is_refused(bytes_: bytes) -> None:
    with serve(bytes_) as server, pytest.raises(TooLong):
        get(Http(), server.url, Reach.OPERATOR)


def test_an_answer_that_is_packed_unasked_is_unpacked() -> None:
    with serve(answer(200, gzip.compress(b"hello"), content_encoding="gzip")) as server:
        assert get(Http(), server.url, Reach.OPERATOR).body == b"hello"
        assert server.requests[0].headers["accept-encoding"] == "identity"


def test_an_answer_that_breaks_off_keeps_its_status() -> None:
    def break_off(connection: socket.socket, request: Request) -> None:
        connection.sendall(answer(503, b"half", content_length="100", retry_after="7"))
        connection.close()

    with serve(break_off) as server:
        with pytest.raises(BodyLost) as caught:
            get(Http(), server.url, Reach.OPERATOR)
        assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "7")


def test_nothing_is_sent_twice() -> None:
    with serve(lambda connection, _request: reset(connection)) as server:
        with pytest.raises(httpx.HTTPError):
            get(Http(), server.url, Reach.OPERATOR)
        assert len(server.requests) == 1


def test_a_stop_is_obeyed_before_the_request_is_sent() -> None:
    with serve(OK) as server:
        with pytest.raises(Stopped):
            get(Http(), server.url, Reach.OPERATOR, stop=lambda: True)
        assert server.connections == 0


def test_each_thread_keeps_its_own_connections() -> None:
    with serve(OK) as server:
        http = Http()

        def twice() -> None:
            for _ in range(2):
                assert get(http, server.url, Reach.OPERATOR).status == 200

        threads = [threading.Thread(target=twice) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (server.connections, len(server.requests)) == (3, 6)
        http.close()


def test_cookies_of_a_server_are_not_sent_back() -> None:
    with serve(answer(200, b"hello", set_cookie="a=b; Path=/")) as server:
        http = Http()
        for _ in range(2):
            get(http, server.url, Reach.OPERATOR)
        assert all("cookie" not in request.headers for request in server.requests)


def test_tls_is_spoken_to_the_name_at_the_address_that_was_checked(tmp_path: Path) -> None:
    server_context, authority = certified("pictures.example", tmp_path)
    names: list[str | None] = []
    server_context.sni_callback = lambda _socket, name, _context: names.append(name)
    client_context = ssl.create_default_context(cafile=str(authority))
    http = Http(LOOPBACK, resolve=always("127.0.0.1"), context=client_context)
    with serve(OK, tls=server_context) as server:
        assert get(http, f"https://pictures.example:{server.port}/a.png").body == b"hello"
        assert names == ["pictures.example"]
        assert server.requests[0].headers["host"] == f"pictures.example:{server.port}"
        with pytest.raises(httpx.ConnectError, match="certificate"):
            get(http, f"https://other.example:{server.port}/a.png")


def certified(name: str, directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for one name, and the file of the certificate that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = directory / "certificate.pem", directory / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context, public
