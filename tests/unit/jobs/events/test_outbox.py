"""Event types, event ids and the filters for events."""

import pytest

from jobs.events.outbox import JOB_DIGEST, TYPES, Event, check_filters, matches, wants_jobs
from jobs.foundation.errors import InvalidInput
from jobs.foundation.ids import made_at
from jobs.foundation.values import moment


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
def test_filters_match_types_and_wildcards(filters: list[str], event_type: str, taken: bool) -> None:
    assert matches(filters, event_type) is taken


def test_only_filters_for_jobs_request_job_events() -> None:
    assert wants_jobs(["*"])
    assert wants_jobs(["job.canceled"])
    assert not wants_jobs(["batch.*", "job.digest", "model.parked"])


@pytest.mark.parametrize(
    "filters", [[], ["job"], ["jobs.*"], ["job.done"], ["*.failed"], ["job.f*"], ["**"], ["x"] * 33]
)
def test_filters_that_could_never_match_are_refused(filters: list[str]) -> None:
    with pytest.raises(InvalidInput):
        check_filters(filters)


def test_every_type_except_the_digest_is_a_valid_filter() -> None:
    check_filters([type_ for type_ in TYPES if type_ != JOB_DIGEST])
    with pytest.raises(InvalidInput, match=r"job\.\*.*webhook_digest_s"):
        check_filters(["batch.*", JOB_DIGEST])


def test_an_events_id_depends_on_its_entry_and_contains_its_time() -> None:
    event = Event("1800000000123-7", "ping", "acme", "ep_x", moment(0), "{}")
    later = Event("1800000000123-8", "ping", "acme", "ep_x", moment(0), "{}")
    assert event.id < later.id
    assert made_at(event.id) == moment(1800000000123)
