"""Start-time fair queueing: tenants are equal, priorities are weights within a tenant, no lane starves."""

from collections import Counter
from collections.abc import Callable

import pytest

from tests.support.plans import Plans, model


def taken(plans: Plans, number: int) -> list[str]:
    """Which jobs the plan starts, one after the other, each ended at once."""
    order: list[str] = []
    while len(order) < number:
        (claim,) = plans.start(limit=1)
        order.append(claim.job_id)
        plans.end(claim)
    return order


def test_tenants_are_equal_however_many_batches_they_open(plans: Plans) -> None:
    owners: dict[str, str] = {}
    for _ in range(9):
        owners |= dict.fromkeys(plans.submit_batch(40, "acme")[1], "acme")
    owners |= dict.fromkeys(plans.submit(60, "globex"), "globex")
    counts = Counter(owners[job_id] for job_id in taken(plans, 100))
    assert counts == {"acme": 50, "globex": 50}


def test_priorities_share_a_tenants_capacity_sixteen_to_four_to_one(plans: Plans) -> None:
    priority_of: dict[str, str] = {}
    for priority in ("low", "normal", "high"):
        priority_of |= dict.fromkeys(plans.submit(200, priority=priority), priority)
    counts = Counter(priority_of[job_id] for job_id in taken(plans, 210))
    assert counts["high"] == pytest.approx(160, abs=2)
    assert counts["normal"] == pytest.approx(40, abs=2)
    assert counts["low"] == pytest.approx(10, abs=2)


def test_a_new_tenant_is_served_next_despite_the_backlog_of_another(plans: Plans) -> None:
    plans.submit(500, "acme")
    taken(plans, 200)
    (mine,) = plans.submit(1, "globex")
    assert mine in taken(plans, 2)


def test_idleness_earns_no_credit(plans: Plans) -> None:
    plans.submit(300, "acme")
    plans.submit(1, "globex")
    taken(plans, 200)
    mine = set(plans.submit(50, "globex"))
    assert len(mine & set(taken(plans, 40))) == pytest.approx(20, abs=1)


def test_a_low_lane_is_never_starved(plans: Plans) -> None:
    plans.submit(300, priority="high")
    (low,) = plans.submit(1, priority="low")
    assert low in taken(plans, 18)


def test_models_share_the_fleets_threads(make_plans: Callable[..., Plans]) -> None:
    plans = make_plans(model(), model().model_copy(update={"name": "other"}), slots=10)
    plans.submit(100)
    plans.submit(100, model="other")
    models = Counter(claim.spec.model for claim in plans.start())
    assert models == {"step-image-edit-2": 5, "other": 5}
