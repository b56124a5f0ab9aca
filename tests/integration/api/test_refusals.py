"""Invalid input of every kind: the status, the named field, and that nothing is stored."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from jobs.wiring import Domain
from tests.support.api_server import CHELSEA, FILE, PROMPT, ROCKET, Api, api_of, encoded, fields_of, problem, tenant_at


@pytest.fixture
def api(shared_domain: Domain, shared_api: str) -> Iterator[Api]:
    with tenant_at(shared_domain, shared_api) as tenant:
        yield tenant


def bomb() -> bytes:
    """A PNG of 60000 x 60000 pixels in a few kilobytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(4_000_000))) + chunk(b"IEND", b"")


def moving() -> bytes:
    held = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(held, "WEBP", save_all=True, append_images=frames[1:])
    return held.getvalue()


def animated_gif() -> bytes:
    held = io.BytesIO()
    Image.new("P", (64, 64)).save(held, "GIF")
    return held.getvalue()


GOOD = {"image": "https://pictures.example/rocket.jpg", "prompt": PROMPT}

JSON_TABLE: list[tuple[str, dict[str, Any], set[str]]] = [
    ("no prompt", {"prompt": None}, {"prompt"}),
    ("blank prompt", {"prompt": "  "}, {"prompt"}),
    ("prompt of 513 characters", {"prompt": "x" * 513}, {"prompt"}),
    ("prompt that is no text", {"prompt": 7}, {"prompt"}),
    ("no image", {"image": None}, {"image"}),
    ("empty image", {"image": ""}, {"image"}),
    ("image that is no address", {"image": "rocket.jpg"}, {"image"}),
    ("file address", {"image": "file:///etc/passwd"}, {"image"}),
    ("ftp address", {"image": "ftp://pictures.example/rocket.jpg"}, {"image"}),
    ("http to a public host", {"image": "http://1.1.1.1/rocket.jpg"}, {"image"}),
    ("https without a host", {"image": "https:///rocket.jpg"}, {"image"}),
    ("private host", {"image": "https://10.0.0.1/rocket.jpg"}, {"image"}),
    ("cloud metadata", {"image": "https://169.254.169.254/latest"}, {"image"}),
    ("mapped private host", {"image": "https://[::ffff:10.0.0.1]/rocket.jpg"}, {"image"}),
    ("private host in decimal", {"image": "https://167772161/rocket.jpg"}, {"image"}),
    ("password in the address", {"image": "https://user:pass@pictures.example/r.jpg"}, {"image"}),
    ("foreign bucket", {"image": "s3://elsewhere/rocket.jpg"}, {"image"}),
    ("bucket without a key", {"image": "s3://retouch"}, {"image"}),
    ("data that is no picture", {"image": "data:image/png;base64,aGVsbG8="}, {"image"}),
    ("data with broken base64", {"image": "data:image/png;base64,@@@@"}, {"image"}),
    ("data that is not base64", {"image": "data:image/png,hello"}, {"image"}),
    ("unknown model", {"model": "gpt-image-1"}, {"model"}),
    ("seed below 0", {"seed": -1}, {"seed"}),
    ("seed over 2147483647", {"seed": 2147483648}, {"seed"}),
    ("seed in quotes", {"seed": "7"}, {"seed"}),
    ("seed that is a truth", {"seed": True}, {"seed"}),
    ("seed with a fraction", {"seed": 7.5}, {"seed"}),
    ("no steps", {"steps": 0}, {"steps"}),
    ("51 steps", {"steps": 51}, {"steps"}),
    ("cfg_scale under 1", {"cfg_scale": 0.9}, {"cfg_scale"}),
    ("cfg_scale over 10", {"cfg_scale": 10.1}, {"cfg_scale"}),
    ("negative_prompt of 513", {"negative_prompt": "x" * 513}, {"negative_prompt"}),
    ("text_mode that is a word", {"text_mode": "yes"}, {"text_mode"}),
    ("a parameter the model does not take", {"quality": "high"}, {"quality"}),
    ("two of them", {"quality": "high", "background": "opaque"}, {"quality", "background"}),
    ("unknown priority", {"priority": "urgent"}, {"priority"}),
    ("unknown field", {"promt": "x"}, {"promt"}),
    ("metadata that is a list", {"metadata": []}, {"metadata"}),
    ("metadata of numbers", {"metadata": {"season": 4}}, {"metadata.season"}),
    ("33 entries of metadata", {"metadata": {str(n): "x" for n in range(33)}}, {"metadata"}),
    ("metadata of 513 characters", {"metadata": {"season": "x" * 513}}, {"metadata"}),
    ("not_before without an offset", {"not_before": "2026-11-22T10:00:00"}, {"not_before"}),
    ("not_before that is no moment", {"not_before": "tomorrow"}, {"not_before"}),
    ("not_before out of the calendar", {"not_before": "9999-12-31T23:59:59-14:00"}, {"not_before"}),
    ("deadline of 0", {"deadline_s": 0}, {"deadline_s"}),
    ("deadline of a year", {"deadline_s": 365 * 86400}, {"deadline_s"}),
    ("deadline before the beginning", {"deadline_s": 60, "not_before": "2100-01-01T00:00:00Z"}, {"deadline_s"}),
    ("unknown placeholder", {"output_key": "{sku}.png"}, {"output_key"}),
    ("open brace", {"output_key": "{custom_id.png"}, {"output_key"}),
    ("climbing key", {"output_key": "../{job_id}.png"}, {"output_key"}),
    ("output to a foreign bucket", {"output_key": "s3://elsewhere/{job_id}.png"}, {"output_key"}),
    ("output to another tenant", {"output_key": "retouch/globex/{job_id}.png"}, {"output_key"}),
    ("empty custom_id", {"custom_id": ""}, {"custom_id"}),
    ("custom_id of 257 characters", {"custom_id": "x" * 257}, {"custom_id"}),
    ("custom_id with a line end", {"custom_id": "a\nb"}, {"custom_id"}),
    ("webhook to a private host", {"webhook_url": "https://192.168.0.1/hook"}, {"webhook_url"}),
    ("webhook that is no address", {"webhook_url": "hook"}, {"webhook_url"}),
    ("many at once", {"prompt": None, "seed": -1, "image": "x", "webhook_url": "y"},
     {"prompt", "seed", "image", "webhook_url"}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "fields"), [row[1:] for row in JSON_TABLE], ids=[row[0] for row in JSON_TABLE])
def test_invalid_json_is_a_problem_that_names_its_fields(api: Api, changes: dict[str, Any], fields: set[str]):
    submitted = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    body = problem(api.http.post("/v1/jobs", json=submitted), 422)
    assert body["type"] == "urn:retouch:problem:invalid-input"
    assert fields_of(body) == fields
    assert all(error["message"] and error["code"] for error in body["errors"])
    assert api.objects() == []
    assert api.http.get("/v1/jobs").json()["data"] == []


PICTURES: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("text", b"this is no picture"),
    ("GIF", animated_gif()),
    ("truncated JPEG", ROCKET[: len(ROCKET) // 2]),
    ("truncated PNG", CHELSEA[: len(CHELSEA) // 2]),
    ("decompression bomb", bomb()),
    ("animated WebP", moving()),
    ("over 4096 wide", encoded(4097, 16)),
    ("over 4096 high", encoded(16, 4097)),
]


@pytest.mark.parametrize("data", [row[1] for row in PICTURES], ids=[row[0] for row in PICTURES])
def test_an_invalid_picture_is_refused_in_every_format_and_not_stored(api: Api, data: bytes):
    answer = api.submit(files={"image": ("picture", data, "image/png")})
    assert fields_of(problem(answer, 422)) == {"image"}
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    assert fields_of(problem(api.http.post("/v1/jobs", json={**GOOD, "image": url}), 422)) == {"image"}
    answer = api.http.post("/v1/images/edits", data={"prompt": PROMPT}, files={"image": ("picture", data)})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "request_params_invalid"
    assert "image" in answer.json()["error"]["message"]
    assert api.objects() == []


FORMS: list[tuple[str, dict[str, Any], Any, set[str]]] = [
    ("unknown field", {"promt": "x"}, FILE, {"promt"}),
    ("file part of another name", {}, {"picture": ("rocket.jpg", ROCKET)}, {"picture"}),
    ("two files", {}, [("image", ("a.jpg", ROCKET)), ("image", ("b.jpg", ROCKET))], {"image"}),
    ("file and address", {"image": "https://pictures.example/a.jpg"}, FILE, {"image"}),
    ("no file", {}, {"metadata.x": (None, "y")}, {"image"}),
    ("seed that is no number", {"seed": "seven"}, FILE, {"seed"}),
    ("empty seed", {"seed": ""}, FILE, {"seed"}),
    ("invalid cfg_scale", {"cfg_scale": "nan"}, FILE, {"cfg_scale"}),
    ("invalid text_mode", {"text_mode": "maybe"}, FILE, {"text_mode"}),
    ("metadata that is no JSON", {"metadata": "winter"}, FILE, {"metadata"}),
    ("a field twice", {"seed": ["1", "2"]}, FILE, {"seed"}),
    ("several invalid fields with a valid picture", {"seed": "-1", "steps": "99"}, FILE, {"seed", "steps"}),
]


@pytest.mark.parametrize(("data", "files", "fields"), [row[1:] for row in FORMS], ids=[row[0] for row in FORMS])
def test_an_invalid_form_is_a_problem_that_names_its_fields(
    api: Api, data: dict[str, Any], files: Any, fields: set[str]
):
    answer = api.http.post("/v1/jobs", data={"prompt": PROMPT, **data}, files=files)
    assert fields_of(problem(answer, 422)) == fields
    assert api.objects() == []


BODIES: list[tuple[str, dict[str, str], bytes, int]] = [
    ("no JSON", {"content-type": "application/json"}, b"{", 422),
    ("not UTF-8", {"content-type": "application/json"}, b'{"prompt": "\xff"}', 422),
    ("half a surrogate", {"content-type": "application/json"}, b'{"prompt": "\\ud800"}', 422),
    ("a list", {"content-type": "application/json"}, b"[]", 422),
    ("nothing", {"content-type": "application/json"}, b"", 422),
    ("plain text", {"content-type": "text/plain"}, b"hello", 415),
    ("a form that is no multipart", {"content-type": "application/x-www-form-urlencoded"}, b"prompt=x", 415),
    ("no type", {}, b"{}", 415),
    ("multipart without a boundary", {"content-type": "multipart/form-data"}, b"--x\r\n", 422),
    ("broken multipart", {"content-type": "multipart/form-data; boundary=x"}, b"hello", 422),
    ("multipart without an end", {"content-type": "multipart/form-data; boundary=x"},
     b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nwhite', 422),
    ("part without a name", {"content-type": "multipart/form-data; boundary=x"},
     b"--x\r\nContent-Disposition: form-data\r\n\r\ny\r\n--x--\r\n", 422),
    ("too many parts", {"content-type": "multipart/form-data; boundary=x"},
     b"".join(b'--x\r\nContent-Disposition: form-data; name="n%d"\r\n\r\ny\r\n' % n for n in range(200)), 422),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "body", "status"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
def test_an_unreadable_body_is_a_problem(api: Api, headers: dict[str, str], body: bytes, status: int):
    problem(api.http.post("/v1/jobs", content=body, headers=headers), status)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "501"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"state": "done"}, "state"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"status": "failed"}, "status"),
    ],
)
def test_an_invalid_query_is_a_problem_that_names_its_parameter(api: Api, params: dict[str, str], field: str):
    assert fields_of(problem(api.http.get("/v1/jobs", params=params), 422)) == {field}


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Idempotency-Key": ""}, "Idempotency-Key"),
        ({"Idempotency-Key": "x" * 256}, "Idempotency-Key"),
        ({"Idempotency-Key": "a\tb"}, "Idempotency-Key"),
        ({"Prefer": "wait=soon"}, "Prefer"),
        ({"Prefer": "wait=121"}, "Prefer"),
        ({"Prefer": "wait=-1"}, "Prefer"),
    ],
)
def test_an_invalid_header_is_a_problem_that_names_it(api: Api, headers: dict[str, str], field: str):
    answer = api.http.post("/v1/jobs", data={"prompt": PROMPT}, files=FILE, headers=headers)
    assert fields_of(problem(answer, 422)) == {field}
    assert api.objects() == []


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/job_01KD3V6E5Y2M8Q4T7W9Z0ABCDE", "/v1/models"])
@pytest.mark.parametrize("value", [None, "Bearer rtk_unknown", "Basic YTpi", "Bearer", "rtk_unknown"])
def test_without_a_valid_key_every_route_returns_401(api: Api, path: str, value: str | None):
    answer = httpx.get(f"{api.http.base_url}{path}", headers={"Authorization": value} if value else {})
    assert problem(answer, 401)["type"].endswith("unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_the_key_is_checked_before_the_body_is_read(api: Api):
    answer = httpx.post(f"{api.http.base_url}/v1/jobs", data={"prompt": PROMPT}, files=FILE)
    problem(answer, 401)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("DELETE", "/v1/jobs", 405),
        ("PUT", "/v1/jobs/job_01KD3V6E5Y2M8Q4T7W9Z0ABCDE", 405),
        ("GET", "/v1/jobs/job_01KD3V6E5Y2M8Q4T7W9Z0ABCDE", 404),
        ("GET", "/v1/jobs/model:step-image-edit-2", 404),
        ("POST", "/v1/jobs/tenant:acme/cancel", 404),
    ],
)
def test_a_missing_resource_or_route_is_a_problem(api: Api, method: str, path: str, status: int):
    answer = api.http.request(method, path)
    problem(answer, status)
    assert status != 405 or answer.headers["allow"]


@pytest.mark.parametrize("request_body", [{"filename": ""}, {"media_type": "text/html"}, {"name": "x"}, []])
def test_an_invalid_upload_request_is_a_problem(api: Api, request_body: Any):
    problem(api.http.post("/v1/uploads", json=request_body), 422)


class Endless(httpx.SyncByteStream):
    """An endless body that counts the bytes that were read."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        while True:
            self.sent += 65536
            yield bytes(65536)


@pytest.fixture
def small(make_settings: Any) -> Iterator[Api]:
    """An API with a limit of 100 kB for pictures."""
    domain = Domain.open(make_settings(max_upload_bytes=100_000))
    domain.planner.register_models()
    try:
        with api_of(domain) as served:
            yield served
    finally:
        domain.close()


def test_a_declared_body_size_over_the_limit_is_refused(small: Api):
    assert len(ROCKET) > 100_000
    problem(small.submit(files={"image": ("big.jpg", bytes(2_000_000))}), 413)
    problem(small.submit(), 413)  # below the limit of the form, above the limit of the picture
    url = "data:image/jpeg;base64," + base64.b64encode(ROCKET).decode()
    problem(small.http.post("/v1/jobs", json={**GOOD, "image": url}), 413)
    problem(small.http.post("/v1/jobs", json={**GOOD, "prompt": "x" * 2_000_000}), 413)
    answer = small.http.post("/v1/images/edits", data={"prompt": PROMPT}, files=FILE)
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "request_too_large"
    assert small.objects() == []


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("application/json", b'{"prompt": "'),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n',
        ),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'),
    ],
    ids=["JSON", "a file", "a text part"],
)
def test_an_endless_body_is_refused_while_it_is_read(small: Api, kind: str, head: bytes):
    body = Endless(head)
    headers = {"Content-Type": kind, "Transfer-Encoding": "chunked"}
    request = small.http.build_request("POST", "/v1/jobs", headers=headers)
    request = httpx.Request("POST", request.url, headers=request.headers, stream=body)
    problem(small.http.send(request), 413)
    assert body.sent < 50_000_000
    assert small.objects() == []


def test_a_refusal_never_contains_the_prompt(api: Api):
    answer = api.http.post("/v1/jobs", content=json.dumps({**GOOD, "prompt": ["secret words"]}).encode(),
                           headers={"content-type": "application/json"})  # fmt: skip
    problem(answer, 422)
    assert "secret" not in answer.text
