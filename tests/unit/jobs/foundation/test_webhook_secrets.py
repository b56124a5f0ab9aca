"""Signatures of webhooks and the rotation of their secrets."""

from datetime import UTC, datetime

from standardwebhooks import Webhook

from jobs.foundation.secret_box import SecretBox
from jobs.foundation.webhook_secrets import new_secret, secrets_of, signature


def test_the_published_test_vector_of_standard_webhooks_is_signed_correctly() -> None:
    # https://github.com/standard-webhooks/standard-webhooks/blob/main/libraries/python/tests/test_webhooks.py
    signed = signature(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        '{"test": 2432232314}',
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_record_with_one_old_secret_in_the_former_format_is_readable() -> None:
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
