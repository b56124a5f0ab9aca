"""The simulator injects faults by directives, by knobs, at random from a seed, and by its limits."""

import contextlib
import email.utils
import hashlib
import json
import threading
import time
from typing import Any

import httpx
import pytest
from httpx import Client

from tests.support.simulator_calls import (
    KEY,
    SMALL,
    STEP,
    calls,
    edit,
    fetch,
    only,
    opened,
    picture,
    simulator,
    under_way,
)
from tests.support.waiting import eventually


def test_directives_apply_in_order_until_they_are_used_up(sim: Client) -> None:
    prompt = "in order [sim:fail=503*2] [sim:429conc*1] [sim:fail=400*1]"
    assert [edit(sim, prompt=prompt).status_code for _ in range(6)] == [503, 503, 429, 400, 200, 200]
    assert edit(sim, prompt=prompt, image=picture(colour="red")).status_code == 503, "another image has its own count"
    assert [call["billed"] for call in calls(sim, "in order")] == [False] * 4 + [True] * 2 + [False]


@pytest.mark.parametrize(
    ("directive", "error", "billed"),
    [
        ("reset", (httpx.ReadError, httpx.RemoteProtocolError), False),
        ("truncate", httpx.RemoteProtocolError, True),
        ("hang", httpx.ReadTimeout, False),
        ("drip=10", httpx.ReadTimeout, True),
    ],
)
def test_a_transport_fault_with_a_count_of_one_happens_once(
    sim: Client, directive: str, error: Any, billed: bool
) -> None:
    prompt = f"wire [sim:{directive}*1]"
    with (
        Client(base_url=sim.base_url, timeout=httpx.Timeout(60, read=2 if directive == "hang" else 60)) as client,
        pytest.raises(error),
    ):
        # During a drip no read times out: the caller needs a deadline for the whole call.
        read_within(client, prompt, 0.7)
    (call,) = eventually(lambda: [c for c in calls(sim, prompt) if c["duration_ms"] is not None])
    assert (call["outcome"], call["billed"]) == (directive.partition("=")[0], billed)
    assert edit(sim, prompt=prompt).status_code == 200


def read_within(client: Client, prompt: str, deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    fields = {"model": STEP, "prompt": prompt}
    with client.stream("POST", "/v1/images/edits", data=fields, files={"image": SMALL}, headers=KEY) as response:
        for _ in response.iter_raw():
            if time.monotonic() > end:
                raise httpx.ReadTimeout("the whole call took too long")


def test_an_answer_can_be_invalid_json_or_oversized(sim: Client) -> None:
    garbage = edit(sim, prompt="[sim:garbage*1]")
    assert garbage.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        garbage.json()
    large = edit(sim, prompt="[sim:oversized=3000000]")
    assert len(large.content) == 3_000_000
    assert only(large)["finish_reason"] == "success"


def test_a_result_can_be_damaged_or_have_the_wrong_size(sim: Client) -> None:
    bad = fetch(sim, edit(sim, prompt="[sim:badimage*1]")).content
    assert bad.startswith(b"\x89PNG")
    with pytest.raises((OSError, SyntaxError)):
        opened(bad)
    assert opened(fetch(sim, edit(sim, prompt="[sim:wrongsize]")).content).size == (24, 16)


def test_a_filtered_edit_has_a_finish_reason_in_the_answer(sim: Client) -> None:
    assert set(only(edit(sim, prompt="[sim:filtered]"))) == {"seed", "finish_reason"}
    item = only(edit(sim, prompt="[sim:filtered=image]"))
    assert item["finish_reason"] == "content_filtered"
    assert sim.get(item["url"]).status_code == 200
    with simulator(filtered_prompts="weapon,blood") as client:
        assert only(edit(client, prompt="a weapon"))["finish_reason"] == "content_filtered"
        assert only(edit(client, prompt="a flower"))["finish_reason"] == "success"


def test_a_call_is_in_flight_for_its_latency(sim: Client) -> None:
    prompt = "slow [sim:latency=2000]"
    caller = threading.Thread(target=lambda: edit(sim, prompt=prompt))
    caller.start()
    eventually(lambda: [call for call in calls(sim, prompt) if call["accepted"] and call["duration_ms"] is None])
    caller.join(60)
    (call,) = calls(sim, prompt)
    assert (call["status"], call["duration_ms"] >= 2000) == (200, True)


KNOB_OUTCOMES = [
    ({"error_rate": 1, "error_statuses": "504"}, 504),
    ({"quota_exhausted": True}, 402),
    ({"retired": "404"}, 404),
    ({"retired": "405"}, 405),
    ({"retired": "410"}, 410),
    ({"keys": ["other"]}, 401),
    ({"reset_rate": 1}, "reset"),
    ({"hang_rate": 1}, "hang"),
    ({"truncate_rate": 1}, "truncate"),
    ({"garbage_rate": 1}, "garbage"),
    ({"drip_bytes_per_s": 5000}, "drip"),
    ({"oversized_bytes": 5000}, "oversized"),
]


@pytest.mark.parametrize(("knobs", "outcome"), KNOB_OUTCOMES)
def test_a_changed_knob_applies_to_the_next_call(knobs: dict[str, Any], outcome: int | str) -> None:
    with simulator() as client:
        assert edit(client).status_code == 200
        changed = client.patch("/_sim/knobs", json=knobs)
        assert changed.status_code == 200
        assert changed.json() == client.get("/_sim/knobs").json()
        with contextlib.suppress(httpx.HTTPError):
            edit(client, timeout=2 if outcome == "hang" else 60)
        summary = eventually(
            lambda: (s := client.get("/_sim/calls?summary=1").json())["in_flight"] == 0 and s["calls"] == 2 and s
        )
        assert summary["by_status" if isinstance(outcome, int) else "by_outcome"][str(outcome)] == 1


def test_a_retired_endpoint_can_answer_plain_text_and_invalid_knobs_are_refused() -> None:
    with simulator(retired="plain") as client:
        response = edit(client)
        assert (response.status_code, response.text) == (404, "404 page not found")
        for invalid in ({"no_such": 1}, {"error_rate": 2}, [1]):
            assert client.patch("/_sim/knobs", json=invalid).status_code == 422
        assert client.patch("/_sim/knobs", content=b"{").status_code == 422
        assert client.get("/_sim/knobs").json()["retired"] == "plain"


def test_knobs_make_results_and_downloads_faulty() -> None:
    with simulator(wrong_size=True, download_fail=1, download_latency_ms=1) as client:
        response = edit(client)
        assert [fetch(client, response).status_code for _ in range(2)] == [503, 200]
        assert opened(fetch(client, response).content).size == (24, 16)
        client.patch("/_sim/knobs", json={"download_fail": -1, "bad_image_rate": 1})
        assert [fetch(client, response).status_code for _ in range(3)] == [503] * 3
        client.patch("/_sim/knobs", json={"download_fail": 0})
        with pytest.raises((OSError, SyntaxError)):
            opened(fetch(client, edit(client)).content)


def test_the_same_random_seed_fails_the_same_calls() -> None:
    def run() -> list[int]:
        with simulator(error_rate=0.5, rng_seed=11) as client:
            return [edit(client).status_code for _ in range(20)]

    first = run()
    assert first == run()
    assert {200, 500, 503} == set(first)


# --- limits


@pytest.mark.parametrize("form", ["none", "seconds", "date"])
def test_starts_a_minute_are_limited_with_and_without_retry_after(form: str) -> None:
    with simulator(rpm=3, retry_after=form) as client:
        assert [edit(client).status_code for _ in range(3)] == [200] * 3
        refused = edit(client)
        assert refused.json()["error"] == {
            "message": "request limited RPM reached, current: 4, limit: 3",
            "type": "rate_limited",
        }
        retry_after = refused.headers.get("Retry-After")
        if form == "none":
            assert retry_after is None
        elif form == "seconds":
            assert 1 <= int(retry_after) <= 60
        else:
            assert email.utils.parsedate_to_datetime(retry_after).timestamp() > time.time()
        assert edit(client, model="qwen-image-edit").status_code == 200, "another model has its own limit"
        assert edit(client, prompt="").status_code == 400, "an invalid request is refused before the limit is checked"
        assert client.get("/_sim/calls?summary=1").json()["peak_accepted_starts_60s"] == 4


def test_calls_in_flight_are_limited_and_a_refused_call_uses_no_directive() -> None:
    with simulator(concurrency=1, latency_ms=30_000) as client:
        with under_way(client, "[sim:hang]"):
            eventually(lambda: any(call["accepted"] for call in calls(client, "hang")))
            refused = edit(client, prompt="later [sim:fail=503*1][sim:latency=0]")
            assert refused.json()["error"]["message"] == "concurrency reached, current: 2, limit: 1"
        eventually(lambda: client.get("/_sim/calls?summary=1").json()["in_flight"] == 0)
        again = [edit(client, prompt="later [sim:fail=503*1][sim:latency=0]").status_code for _ in range(2)]
        assert again == [503, 200]
        assert client.get("/_sim/calls?summary=1").json()["peak_in_flight"] == 2


# --- the ledger


def test_every_call_is_recorded_and_can_be_deleted() -> None:
    with simulator() as client:
        response = edit(client, prompt="recorded", seed="9", headers=KEY | {"X-Job": "j1"})
        edit(client, prompt="x" * 513)
        (call,) = calls(client, "recorded")
        assert call["trace_id"] == response.headers["X-Trace-Id"]
        assert call["image_sha256"] == hashlib.sha256(SMALL).hexdigest()
        assert call["headers"]["x-job"] == "j1"
        assert "authorization" not in call["headers"]
        assert (call["model"], call["seed"], call["status"], call["billed"]) == (STEP, 9, 200, True)
        summary = client.get("/_sim/calls?summary=1").json()
        assert (summary["calls"], summary["by_status"], summary["billed"]) == (2, {"200": 1, "400": 1}, 1)
        assert client.delete("/_sim/calls").status_code == 204
        assert client.get("/_sim/calls").json() == {"data": []}


def test_a_fast_result_is_prepared_once_for_each_size(sim: Client) -> None:
    with simulator(fast=True) as client:
        first, second = (fetch(client, edit(client, image=picture(colour=colour))) for colour in ("red", "blue"))
        assert first.content == second.content
        assert opened(fetch(client, edit(client, image=picture(30, 20))).content).size == (30, 20)
        broken = edit(client, image=picture(31, 21)[:-30])
        assert broken.status_code == 400
        assert edit(client, image=picture(31, 21)).status_code == 200, (
            "a damaged image does not affect the next image of its size"
        )
