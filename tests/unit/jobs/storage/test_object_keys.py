"""The keys of objects, and which tenant may use them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.foundation.errors import InvalidInput
from jobs.records.job_models import JobSpec
from jobs.records.output_key import key_part
from jobs.storage.object_keys import (
    check_readable,
    check_writable,
    input_key,
    output_location,
    parse_s3_url,
    upload_key,
)

JOB = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"
ROW = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV-0000007"
BATCH = "bat_01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.mark.parametrize(
    ("job_id", "fields", "expected"),
    [
        (JOB, {}, ("ours", f"outputs/{JOB}.png")),
        (JOB, {"custom_id": "SKU-1"}, ("ours", f"outputs/{JOB}.png")),
        (ROW, {}, ("ours", f"outputs/{BATCH}/{ROW}.png")),
        (ROW, {"custom_id": "SKU-1"}, ("ours", f"outputs/{BATCH}/SKU-1.png")),
        (ROW, {"custom_id": "Jacke rot, Größe 42"}, None),
        (JOB, {"output_key": "a/{job_id}/{custom_id}.{ext}", "custom_id": "x"}, ("ours", f"a/{JOB}/x.png")),
        (JOB, {"output_key": "a/{custom_id}.{ext}"}, ("ours", f"a/{JOB}.png")),
        (ROW, {"output_key": "{batch_id}.{ext}"}, ("ours", f"{BATCH}.png")),
        (JOB, {"output_key": "{batch_id}.{ext}"}, ("ours", "single.png")),
        (JOB, {"output_key": "s3://theirs/x/{job_id}"}, ("theirs", f"x/{JOB}")),
    ],
)
def test_the_template_determines_the_key_of_an_output(
    job_id: str, fields: dict[str, str], expected: tuple[str, str] | None
):
    location = output_location(JobSpec(**fields), job_id, "image/png", "ours", ("ours", "theirs"))
    if expected is None:
        assert location[1].startswith(f"outputs/{BATCH}/Jacke-rot,-Größe-42~")
    else:
        assert location == expected


@pytest.mark.parametrize("media_type", [("image/jpeg", "jpg"), ("image/webp", "webp"), ("image/png", "png")])
def test_the_extension_follows_the_results_media_type(media_type: tuple[str, str]) -> None:
    assert output_location(JobSpec(), JOB, media_type[0], "ours")[1].endswith(f".{media_type[1]}")


def test_an_output_in_a_bucket_that_is_not_allowed_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not allowed"):
        output_location(JobSpec(output_key="s3://secret/{job_id}"), JOB, "image/png", "ours", ("theirs",))


def test_a_key_that_is_too_long_is_refused() -> None:
    spec = JobSpec(output_key="/".join(["{custom_id}"] * 12), custom_id="x" * 128)
    with pytest.raises(InvalidInput, match="1024 bytes"):
        output_location(spec, JOB, "image/png", "ours")


@pytest.mark.parametrize(
    "name", ["..", ".", "../../etc/passwd", "a/b", "a\\b", "a\0b", "a\nb", " ", "/", "ä/ö", "x" * 300]
)
def test_a_custom_id_is_one_safe_part_of_a_key(name: str) -> None:
    part = key_part(name)
    assert part not in {"", ".", ".."}
    assert "/" not in part
    assert "\\" not in part
    assert part.isprintable()
    assert len(part) <= 140


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_two_ids_never_have_the_same_part(first: str, second: str) -> None:
    assert first == second or key_part(first) != key_part(second)


def test_no_custom_id_equals_the_converted_form_of_another() -> None:
    converted = key_part("a/b")
    assert key_part(converted) != converted


@pytest.mark.parametrize("name", ["SKU-1041", "shoe_42.v2", "Größe+42", "日本語"])
def test_a_harmless_custom_id_stays_readable(name: str) -> None:
    assert key_part(name) == name


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "https://bucket/key",
        "s3://b/k",
        "s3://../key",
        "s3://bucket//a",
        "s3://bucket/a/../b",
        "s3://bucket/./a",
        "s3://bucket/a//b",
        "s3://bucket/a\nb",
        "s3://bu cket/a",
        "s3://bucket/" + "a" * 1025,
    ],
)
def test_an_invalid_s3_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"form is s3://|a key has"):
        parse_s3_url(url)


def test_an_s3_url_has_a_bucket_and_a_key() -> None:
    assert parse_s3_url("s3://my.bucket-1/a/ä b?c#d.png") == ("my.bucket-1", "a/ä b?c#d.png")


@pytest.mark.parametrize(
    ("bucket", "key", "readable", "writable"),
    [
        ("ours", "pictures/a.png", True, True),
        ("theirs", "retouch/globex/inputs/a.png", True, True),
        ("ours", input_key("acme", JOB, "image/png"), True, False),
        ("ours", upload_key("acme", "upl_1", "my shoe.png"), True, False),
        ("ours", "retouch/acme/other/a.png", True, True),
        ("ours", input_key("globex", JOB, "image/png"), False, False),
        ("ours", "retouch/acme2/inputs/a.png", False, False),
        ("ours", "retouch/a.png", False, False),
        ("secret", "pictures/a.png", False, False),
    ],
)
def test_a_tenant_reaches_only_its_own_private_objects(bucket: str, key: str, readable: bool, writable: bool) -> None:
    for check, allowed in ((check_readable, readable), (check_writable, writable)):
        if allowed:
            check("acme", bucket, key, buckets=("ours", "theirs"), default_bucket="ours")
        else:
            with pytest.raises(InvalidInput):
                check("acme", bucket, key, buckets=("ours", "theirs"), default_bucket="ours")
