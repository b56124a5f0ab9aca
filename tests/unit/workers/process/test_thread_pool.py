"""A worker's threads: edits never wait for a receiver that hangs, also where one process serves both."""

import pytest

from workers.process.thread_pool import Threads


def test_a_process_of_one_queue_gives_it_all_its_threads() -> None:
    assert Threads.of(["edits"], 64) == Threads(edits=64, deliveries=0, pool=64)
    assert Threads.of(["webhooks"], 32) == Threads(edits=0, deliveries=32, pool=32)


@pytest.mark.parametrize("concurrency", [1, 3, 8, 64])
def test_deliveries_get_one_extra_thread_for_each_message_that_may_be_published(concurrency: int) -> None:
    threads = Threads.of(["edits", "webhooks", "ingest"], concurrency)
    assert threads.edits == concurrency
    # deliveries/plan.lua: twice the threads for quick receivers; a quarter each, at least one, for new and slow ones.
    quarter = max(1, threads.deliveries // 4)
    assert threads.pool - threads.edits > 2 * threads.deliveries + 2 * quarter
