"""The options of a batch that request digests."""

import pytest
from pydantic import ValidationError

from jobs.batches.models import BatchOptions


@pytest.mark.parametrize("events", [None, ["batch.*"], ["batch.completed", "schedule.run_failed"]])
def test_a_digest_without_job_events_is_refused_by_its_field(events: list[str] | None) -> None:
    with pytest.raises(ValidationError, match=r"job\.\*") as refused:
        BatchOptions(webhook_events=events, webhook_digest_s=10)
    assert [fault["loc"] for fault in refused.value.errors()] == [("webhook_digest_s",)]


@pytest.mark.parametrize("events", [["*"], ["job.*"], ["batch.*", "job.failed"]])
def test_a_digest_of_job_events_is_valid(events: list[str]) -> None:
    assert BatchOptions(webhook_events=events, webhook_digest_s=10).webhook_digest_s == 10
