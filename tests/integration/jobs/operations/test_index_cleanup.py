from jobs.foundation.job_states import State
from jobs.operations.index_cleanup import IndexCleaner
from tests.support.plans import Plans


def test_expired_records_leave_the_indexes_and_others_stay(plans: Plans) -> None:
    jobs = [plans.submit(custom_id=f"sku-{n}")[0] for n in range(25)]
    while claims := plans.start():
        for claim in claims:
            plans.end(claim)
    kept = jobs[::5]
    plans.redis.delete(*(plans.keys.job(job_id) for job_id in jobs if job_id not in kept))
    cleaner = IndexCleaner(plans.redis, plans.keys)
    removed = sum(cleaner.step(stretch=4) for _ in range(7))
    assert removed == 2 * (len(jobs) - len(kept))
    assert plans.redis.zcard(plans.keys.index("acme", State.SUCCEEDED)) == len(kept)
    assert plans.redis.zcard(plans.keys.custom_ids("acme")) == len(kept)
    assert {job.id for job in plans.job_reader.page("acme").data} == set(kept)
    assert cleaner.step() == 0


def test_a_jobs_record_expires_after_its_retention(plans: Plans) -> None:
    (job_id,) = plans.submit()
    (claim,) = plans.start()
    plans.end(claim)
    assert 0 < plans.redis.pttl(plans.keys.job(job_id)) <= 86_400_000
