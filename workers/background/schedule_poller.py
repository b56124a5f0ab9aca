"""The schedule poller: every worker polls, and the first one claims a tick. There is no beat process and no leader."""

import structlog

from jobs.queueing.publisher import TaskPublisher
from jobs.schedules.schedules import Due, Schedules

POLL_S = 1.0
"""How often each worker looks for schedules whose tick has come, in seconds."""
MAX_DUE = 50

log = structlog.get_logger(__name__)


class SchedulePoller:
    """Makes runs of the schedules whose tick has come.

    Args:
        schedules: their records.
        publisher: publishes the background tasks of the runs.
    """

    def __init__(self, schedules: Schedules, publisher: TaskPublisher) -> None:
        self._schedules = schedules
        self._publisher = publisher

    def fire(self) -> int:
        """Create a run for each due tick. Returns how many runs this call created.

        If the process is killed meanwhile, its runs stay due, and another process creates their batches.

        Raises:
            redis.exceptions.RedisError: the store does not answer.
        """
        runs = 0
        failed: set[str] = set()
        while due := self._due(failed):
            for schedule in due:
                try:
                    claimed = self._schedules.claim(schedule)
                except ValueError as error:
                    # This machine may lack the time zone, for example: another worker may have it.
                    log.error("firing.unreadable", schedule_id=schedule.schedule_id, error=str(error))  # noqa: TRY400
                    failed.add(schedule.schedule_id)
                    continue
                if claimed is not None:
                    runs += claimed.runs
                    log.info("firing.fired", schedule_id=schedule.schedule_id, runs=claimed.runs, missed=claimed.missed)
        if runs:
            self._publisher.publish_due()
        return runs

    def _due(self, failed: set[str]) -> list[Due]:
        """Due schedules that this call has not failed to read."""
        due = self._schedules.due(limit=MAX_DUE + len(failed))
        return [schedule for schedule in due if schedule.schedule_id not in failed]
