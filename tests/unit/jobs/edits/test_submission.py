"""How a request becomes a draft of a job, before anything is written."""

import hashlib
from typing import Any

import pytest

from api.http.multipart import job_fields
from api.routes.jobs import preferred_wait
from api.routes.openai_compatible import read_fields
from jobs.catalogue.catalogue import load_catalogue
from jobs.edits.rules import warnings
from jobs.edits.submission import parse_fields, parse_json, request_fingerprint
from jobs.foundation.errors import InvalidInput
from jobs.records.job_models import JobRequest

STEP = load_catalogue().get("step-image-edit-2")


def named(error: InvalidInput) -> set[str]:
    return {fault.field for fault in error.errors}


def test_text_is_converted_to_the_types_of_its_fields():
    request = parse_fields({"seed": "7", "cfg_scale": "1.5", "text_mode": "false", "deadline_s": "60", "prompt": "7"})
    assert request == JobRequest(seed=7, cfg_scale=1.5, text_mode=False, deadline_s=60, prompt="7")


def test_json_values_keep_their_types():
    assert parse_json(b'{"cfg_scale": 2, "text_mode": true}') == JobRequest(cfg_scale=2.0, text_mode=True)
    with pytest.raises(InvalidInput) as refused:
        parse_json(b'{"cfg_scale": "2", "text_mode": "true", "seed": true, "colour": 1, "metadata": {"a": 1}}')
    assert named(refused.value) == {"cfg_scale", "text_mode", "seed", "colour", "metadata.a"}


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_an_impossible_date_is_refused_by_name(moment: str):
    with pytest.raises(InvalidInput) as refused:
        parse_json(b'{"not_before": "%s"}' % moment.encode())
    assert named(refused.value) == {"not_before"}
    with pytest.raises(InvalidInput) as refused:
        parse_fields({"not_before": moment})
    assert named(refused.value) == {"not_before"}


def test_metadata_is_accepted_as_json_and_as_parts():
    values = [("metadata", '{"season": "winter"}'), ("metadata.colour", "red"), ("prompt", "p")]
    assert job_fields(values) == {"prompt": "p", "metadata": {"season": "winter", "colour": "red"}}


@pytest.mark.parametrize("text", ["winter", "[]", "null", "{", "7"])
def test_metadata_other_than_a_json_object_is_refused(text: str):
    with pytest.raises(InvalidInput) as refused:
        job_fields([("metadata", text)])
    assert named(refused.value) == {"metadata"}


def test_a_repeated_field_is_refused():
    with pytest.raises(InvalidInput) as refused:
        job_fields([("seed", "1"), ("seed", "1"), ("metadata.x", "1"), ("metadata.x", "2")])
    assert named(refused.value) == {"seed", "metadata.x"}


def test_a_fingerprint_depends_on_the_meaning_and_not_on_the_form():
    one = parse_json(b'{"prompt": "p", "seed": 7, "metadata": {"a": "1", "b": "2"}, "priority": "normal"}')
    other = parse_fields({"metadata": {"b": "2", "a": "1"}, "seed": "7", "prompt": "p"})
    picture = hashlib.sha256(b"picture").hexdigest()
    assert request_fingerprint(one, picture) == request_fingerprint(other, picture)


@pytest.mark.parametrize(
    "change", [{"prompt": "q"}, {"seed": 8}, {"metadata": {"a": "2"}}, {"priority": "high"}, {"image": "https://b/b"}]
)
def test_a_fingerprint_distinguishes_requests(change: dict[str, Any]):
    before = {"prompt": "p", "seed": 7, "metadata": {"a": "1"}, "image": "https://a/a"}
    one, other = JobRequest.model_validate(before), JobRequest.model_validate({**before, **change})
    assert request_fingerprint(one, None) != request_fingerprint(other, None)
    assert request_fingerprint(one, "aa") != request_fingerprint(one, "bb")


@pytest.mark.parametrize(
    ("request_", "about"),
    [
        (JobRequest(negative_prompt="blur"), ["negative_prompt"]),
        (JobRequest(negative_prompt="blur", cfg_scale=1.0), ["negative_prompt"]),
        (JobRequest(negative_prompt="blur", cfg_scale=1.1), []),
        (JobRequest(negative_prompt=""), []),
        (JobRequest(size="512x512"), ["size"]),
        (JobRequest(size="512x512", negative_prompt="blur"), ["size", "negative_prompt"]),
    ],
)
def test_fields_without_effect_cause_warnings(request_: JobRequest, about: list[str]):
    assert [text.split()[0] for text in warnings(request_, STEP)] == about


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("respond-async", None),
        ("wait=5", 5),
        ('Wait="7"', 7),
        ("respond-async, wait=120", 120),
    ],
)
def test_a_preferred_wait_is_accepted(header: str | None, seconds: int | None):
    assert preferred_wait(header) == seconds


@pytest.mark.parametrize("header", ["wait", "wait=", "wait=-1", "wait=121", "wait=1.5", "wait=99999999999", "wait=²"])
def test_an_unsupported_wait_is_refused(header: str):
    with pytest.raises(InvalidInput):
        preferred_wait(header)


def test_the_drop_in_forwards_model_fields_and_drops_neutral_ones():
    catalogue = load_catalogue()
    wanted = read_fields(  # the form that the SDK sends
        [("prompt", "p"), ("seed", "7"), ("n", "1"), ("quality", "auto"), ("user", "u"), ("size", "1024x1024")],
        catalogue,
    )
    assert wanted.request == JobRequest(prompt="p", seed=7, size="1024x1024", priority="high")
    assert wanted.response_format == "url"
    assert wanted.wait_s == 420
    with pytest.raises(InvalidInput) as refused:
        read_fields([("n", "2"), ("input_fidelity", "high"), ("mystery", "1"), ("response_format", "gif")], catalogue)
    assert named(refused.value) == {"n", "input_fidelity", "mystery", "response_format"}
