"""What is decided about deliveries without any I/O."""

from datetime import UTC, datetime

import pytest
from pydantic import SecretStr, ValidationError
from standardwebhooks import Webhook

from jobs.batches.models import BatchOptions
from jobs.events.outbox import JOB_DIGEST, TYPES, Event, check_filters, matches, wants_jobs
from jobs.foundation.errors import ConfigurationError, InvalidInput
from jobs.foundation.ids import made_at
from jobs.foundation.secret_box import ENCRYPTED_PREFIX, SecretBox
from jobs.foundation.settings import Settings
from jobs.foundation.values import moment
from jobs.foundation.webhook_secrets import new_secret, secrets_of, signature
from jobs.foundation.webhook_url_policy import check_webhook_url
from jobs.webhooks.delivery_models import TRANSITIONS, DeliveryState
from jobs.webhooks.endpoint_models import check_headers
from jobs.webhooks.retry_policy import JITTER, SCHEDULE_S, Exchange, judge
from tests.support.paths import ROOT

KEY = "a random text of enough characters"


def failed(status: int, retry_after_s: float | None = None) -> Exchange:
    return Exchange(took_ms=5, status=status, retry_after_s=retry_after_s)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_a_success(status: int) -> None:
    assert judge(failed(status), 0, 0.5).ok


@pytest.mark.parametrize("status", [100, 301, 302, 307, 400, 401, 404, 422, 429, 500, 503])
def test_everything_else_is_tried_again(status: int) -> None:
    verdict = judge(failed(status), 0, 0.0)
    assert (verdict.ok, verdict.delay_ms, verdict.gone) == (False, 5000, False)


def test_a_success_whose_answer_broke_off_is_none() -> None:
    assert not judge(Exchange(took_ms=5, status=200, error="it broke off"), 0, 0.0).ok


@pytest.mark.parametrize("tries", range(9))
@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_pauses_follow_the_schedule_and_are_never_shorter(tries: int, jitter: float) -> None:
    delay_ms = judge(failed(500), tries, jitter).delay_ms
    assert delay_ms is not None
    pause_ms = 1000 * SCHEDULE_S[tries + 1]
    assert pause_ms <= delay_ms <= pause_ms * (1 + JITTER)
    assert (delay_ms == pause_ms) is (jitter == 0.0)


def test_the_schedule_is_the_one_that_is_documented() -> None:
    assert SCHEDULE_S == (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    guide = (ROOT / "docs" / "webhooks.md").read_text()
    assert "at once, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h" in guide


def test_after_the_last_try_there_is_none() -> None:
    verdict = judge(failed(500), 9, 0.0)
    assert (verdict.delay_ms, verdict.why) == (None, "10 tries have failed")


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed_for_the_delivery_and_the_whole_receiver(status: int) -> None:
    verdict = judge(failed(status, 90), 0, 0.0)
    assert (verdict.delay_ms, verdict.rest_ms) == (90_000, 90_000)
    later = judge(failed(status, 1), 3, 0.0)
    assert (later.delay_ms, later.rest_ms) == (7200_000, 1000)


def test_retry_after_of_other_answers_or_of_more_than_a_day_is_not_obeyed() -> None:
    assert judge(failed(500, 90), 0, 0.0).delay_ms == 5000
    assert judge(failed(429, 1e9), 0, 0.0).delay_ms == 86_400_000


def test_410_ends_it_at_once() -> None:
    verdict = judge(failed(410), 0, 0.0)
    assert verdict.gone
    assert verdict.delay_ms is None


def test_what_has_ended_is_only_left_on_the_users_word() -> None:
    leaving = {(source, target) for source, target in TRANSITIONS if source in {"succeeded", "exhausted"}}
    assert leaving == {("succeeded", DeliveryState.WAITING), ("exhausted", DeliveryState.WAITING)}


@pytest.mark.parametrize(
    ("filters", "event_type", "taken"),
    [
        (["*"], "job.failed", True),
        (["job.*"], "job.failed", True),
        (["job.*"], "batch.completed", False),
        (["job.failed"], "job.failed", True),
        (["job.failed"], "job.succeeded", False),
        (["job.*"], "jobs.other", False),
        (["batch.*", "job.filtered"], "job.filtered", True),
    ],
)
def test_filters_take_types_and_wildcards(filters: list[str], event_type: str, taken: bool) -> None:
    assert matches(filters, event_type) is taken


def test_only_filters_for_jobs_make_jobs_tell() -> None:
    assert wants_jobs(["*"])
    assert wants_jobs(["job.canceled"])
    assert not wants_jobs(["batch.*", "job.digest", "model.parked"])


@pytest.mark.parametrize(
    "filters", [[], ["job"], ["jobs.*"], ["job.done"], ["*.failed"], ["job.f*"], ["**"], ["x"] * 33]
)
def test_filters_that_could_never_match_are_refused(filters: list[str]) -> None:
    with pytest.raises(InvalidInput):
        check_filters(filters)


def test_every_type_is_a_filter_but_the_digest_which_says_what_to_ask_for() -> None:
    check_filters([one for one in TYPES if one != JOB_DIGEST])
    with pytest.raises(InvalidInput, match=r"job\.\*.*webhook_digest_s"):
        check_filters(["batch.*", JOB_DIGEST])


@pytest.mark.parametrize("events", [None, ["batch.*"], ["batch.completed", "schedule.run_failed"]])
def test_a_digest_without_events_of_jobs_is_refused_by_its_field(events: list[str] | None) -> None:
    with pytest.raises(ValidationError, match=r"job\.\*") as refused:
        BatchOptions(webhook_events=events, webhook_digest_s=10)
    assert [fault["loc"] for fault in refused.value.errors()] == [("webhook_digest_s",)]


@pytest.mark.parametrize("events", [["*"], ["job.*"], ["batch.*", "job.failed"]])
def test_a_digest_of_events_of_jobs_is_taken(events: list[str]) -> None:
    assert BatchOptions(webhook_events=events, webhook_digest_s=10).webhook_digest_s == 10


def test_an_events_id_follows_from_its_entry_and_tells_its_moment() -> None:
    event = Event("1800000000123-7", "ping", "acme", "ep_x", moment(0), "{}")
    later = Event("1800000000123-8", "ping", "acme", "ep_x", moment(0), "{}")
    assert event.id < later.id
    assert made_at(event.id) == moment(1800000000123)


def test_sealed_texts_are_opened_by_every_key_that_is_named_and_sealed_by_the_first() -> None:
    old, both = SecretBox(SecretStr(KEY)), SecretBox(SecretStr(f"another random text, {KEY}"))
    sealed = old.encrypt("whsec_x")
    assert sealed.startswith(ENCRYPTED_PREFIX)
    assert "whsec_x" not in sealed
    assert both.decrypt(sealed) == "whsec_x"
    with pytest.raises(ConfigurationError):
        old.decrypt(both.encrypt("whsec_x"))
    with pytest.raises(ConfigurationError):
        SecretBox(None).decrypt(sealed)
    assert both.decrypt("whsec_from_before") == "whsec_from_before"
    assert SecretBox(None).encrypt("whsec_x") == "whsec_x"


def test_a_sealed_text_that_was_changed_is_refused() -> None:
    secret_box = SecretBox(SecretStr(KEY))
    sealed = secret_box.encrypt("whsec_x")
    with pytest.raises(ConfigurationError):
        secret_box.decrypt(sealed[:-6] + ("A" if sealed[-6] != "A" else "B") + sealed[-5:])


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        SecretBox(SecretStr("short"))


def test_the_published_vector_of_standard_webhooks_is_signed_as_published() -> None:
    # https://github.com/standard-webhooks/standard-webhooks/blob/main/libraries/python/tests/test_webhooks.py
    signed = signature(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        '{"test": 2432232314}',
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_rotation_recorded_with_one_old_secret_is_still_read() -> None:
    old, new = new_secret(), new_secret()
    record = {"secret": new, "old_secret": old, "old_until": "1000"}
    assert secrets_of(record, SecretBox(None), 999) == [new, old]
    assert secrets_of(record, SecretBox(None), 1000) == [new]
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature("evt_1", now, "{}", [new, old]),
    }
    for secret in (old, new):
        assert Webhook(secret).verify("{}", headers) == {}


HOSTILE = [
    "http://127.0.0.1",
    "http://127.0.0.1:8080/hook",
    "https://[::ffff:127.0.0.1]/",
    "https://[::1]/",
    "https://0x7f.1/",
    "https://2130706433/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://localhost/",
    "https://a.localhost/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[fd00:ec2::254]/",
    "https://[64:ff9b::7f00:1]/",
    "https://10.1.2.3/",
    "https://100.64.0.1/",
    "https://user@example.com/",
    "https://user:word@example.com/",
    "file:///etc/passwd",
    "ftp://example.com/",
    "gopher://example.com/",
    "//example.com/",
    "example.com",
    "https://",
    "https://example.com:22/",
    "https://example.com:6379/",
    "https://example.com:7999/",
    "https://example.com:10000/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://exa mple.com/",
    "https://example.com/\r\nHost: x",
    "https://example.com\\@127.0.0.1/",
    "https://" + "a" * 2100,
]


@pytest.mark.parametrize("url", HOSTILE)
def test_a_hostile_url_is_refused_before_anything_is_resolved(url: str) -> None:
    with pytest.raises(ValueError, match=r"it|port 0"):
        check_webhook_url(url, Settings())


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/",
        "http://example.com/",
        "https://example.com:8000/x?y",
        "https://example.com:9999",
        "https://8.8.8.8/",
    ],
)
def test_a_public_url_is_taken(url: str) -> None:
    check_webhook_url(url, Settings())


def test_the_operator_may_allow_ports_and_private_networks() -> None:
    check_webhook_url("https://example.com:7000/", Settings(webhook_ports="443,7000-7001"))
    with pytest.raises(ValueError, match="port"):
        check_webhook_url("https://example.com:8000/", Settings(webhook_ports="443,7000-7001"))
    loopback = Settings(allow_private_addresses="127.0.0.0/8")
    check_webhook_url("http://127.0.0.1:45123/", loopback)
    check_webhook_url("http://localhost:45123/", loopback)
    with pytest.raises(ValueError, match="port"):
        check_webhook_url("http://example.com:45123/", loopback)
    with pytest.raises(ValueError, match="private"):
        check_webhook_url("http://10.0.0.1/", loopback)


@pytest.mark.parametrize("text", ["x", "70000", "0", "9-8", "80,,a"])
def test_ports_that_are_none_are_a_clear_error(text: str) -> None:
    with pytest.raises(ValidationError):
        Settings(webhook_ports=text)


@pytest.mark.parametrize(
    "headers",
    [
        {"webhook-id": "x"},
        {"Webhook-Signature": "x"},
        {"Host": "x"},
        {"content-length": "1"},
        {"Transfer-Encoding": "chunked"},
        {"bad name": "x"},
        {"x": "a\r\nb: c"},
        {"x": ""},
        {"x": " a"},
        {"x": "\u00e9"},
        {f"x-{n}": "1" for n in range(17)},
    ],
)
def test_headers_that_are_not_the_owners_to_set_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        check_headers(headers)


def test_headers_such_as_a_token_are_taken() -> None:
    check_headers({"Authorization": "Bearer abc", "X-Shop": "a b"})
