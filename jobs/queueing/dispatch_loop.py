"""The loop that starts planned work: plan, then publish what the plan started."""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import structlog
from kombu.exceptions import OperationalError

BATCH_SIZE = 100
"""How many attempts one call of a plan starts at most."""
BROKER_PAUSE_S = 1.0
"""How long a broker that does not answer is left alone, in seconds."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
log = structlog.get_logger(__name__)


class Planned(Protocol[T_co]):
    """What one call of a plan started.

    Attributes:
        dispatches: the attempts to publish.
        next_in_s: seconds until the plan may start more; None: time alone starts nothing.
    """

    @property
    def dispatches(self) -> Sequence[T_co]: ...  # noqa: D102

    @property
    def next_in_s(self) -> float | None: ...  # noqa: D102


class PlanCall(Protocol[T_co]):
    """Starts at most `limit` attempts."""

    def __call__(self, *, limit: int) -> Planned[T_co]: ...  # noqa: D102


class DispatchLoop(Generic[T]):
    """Plans and publishes until the plan starts nothing more. Any process may run it at any time.

    Args:
        plan: starts attempts.
        publish: sends one message for each of them.
    """

    def __init__(self, plan: PlanCall[T], publish: Callable[[Sequence[T]], None]) -> None:
        self._plan = plan
        self._publish = publish

    def dispatch(self) -> float | None:
        """Start everything that may start now.

        A broker outage costs time only: an attempt that was not published loses its unused lease, and the plan starts
        it again.

        Returns:
            Seconds until the plan may start more; None: time alone starts nothing.

        Raises:
            redis.exceptions.RedisError: the store does not answer.
        """
        while True:
            planned = self._plan(limit=BATCH_SIZE)
            if planned.dispatches:
                try:
                    self._publish(planned.dispatches)
                except OperationalError as error:
                    log.warning("broker.unreachable", error=str(error), held_back=len(planned.dispatches))
                    return BROKER_PAUSE_S
            if len(planned.dispatches) < BATCH_SIZE:
                return planned.next_in_s
