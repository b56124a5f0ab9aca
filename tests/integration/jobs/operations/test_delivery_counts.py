"""The counts of webhook deliveries."""

from jobs.wiring import Domain
from tests.support.ended_jobs import draft, end_jobs
from tests.support.receiver import Answer, receiving
from tests.support.webhook_worker import webhook_runner


def test_deliveries_tries_and_waiting_events_are_counted(domain: Domain) -> None:
    with receiving() as receiver, webhook_runner(domain) as webhooks:
        receiver.answer = lambda _request, number: Answer(503 if number == 0 else 200)
        end_jobs(domain, [draft(webhook_url=receiver.url) for _ in range(3)])
        assert domain.stats.fleet().deliveries.outbox == 3
        webhooks.deliver_all()
        counts = domain.stats.fleet().deliveries
    assert counts.ended == {"succeeded": 2, "exhausted": 0}
    assert counts.tries == {"succeeded": 2, "failed": 1, "lost": 0}
    assert (counts.waiting, counts.sending, counts.outbox, counts.breakers_open) == (1, 0, 0, 0)


def test_a_receiver_with_an_open_breaker_is_counted_until_it_answers(domain: Domain) -> None:
    with receiving() as receiver, webhook_runner(domain) as webhooks:
        receiver.answer = lambda _request, _number: Answer(500)
        for _ in range(8):
            end_jobs(domain, [draft(webhook_url=receiver.url)])
            webhooks.deliver_all()
            if domain.stats.fleet().deliveries.breakers_open:
                break
        failed = domain.stats.fleet().deliveries
        assert (failed.breakers_open, failed.ended["succeeded"]) == (1, 0)
        receiver.answer = lambda _request, _number: Answer()
        key = domain.redis.zrange(domain.keys.deliveries("breakers"), 0, 0)
        domain.redis.hset(str(key[0]), "open_until", 0)
        end_jobs(domain, [draft(webhook_url=receiver.url)])
        webhooks.deliver_all()
        assert domain.stats.fleet().deliveries.breakers_open == 0
