"""The Celery app, and the names of its tasks and queues."""

from celery import Celery
from kombu import Exchange, Queue

from jobs.foundation.settings import Settings
from jobs.queueing.background_tasks import TaskKind

EDIT, DELIVER = "edit", "deliver"
"""Names of tasks; a background task is named after its kind."""
EDITS, WEBHOOKS, BACKGROUND = "edits", "webhooks", "ingest"
QUEUE_OF = {EDIT: EDITS, DELIVER: WEBHOOKS, **{kind.value: BACKGROUND for kind in TaskKind}}
"""The queue of each task. Only edits use the threads of edits."""
QUEUES = (EDITS, WEBHOOKS, BACKGROUND)


def make_celery(settings: Settings) -> Celery:
    """A Celery app for publishing, for a worker, or for Flower.

    It uses early acknowledgement, no prefetch, no results and no delayed messages: a lease protects each job, and jobs
    wait in the plan. With late acknowledgement or prefetched messages, a worker of Celery 5.7.0 exits when its Redis
    broker dies, and runs tasks again after a lost connection.
    """
    app = Celery("retouch", broker=settings.broker, set_as_current=False)
    prefix = settings.key_prefix
    over_redis = settings.broker.startswith(("redis", "valkey"))
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_default_queue=EDITS,
        task_queues=[Queue(name, Exchange(name, type="direct"), routing_key=name) for name in QUEUES],
        task_routes={task: {"queue": queue} for task, queue in QUEUE_OF.items()},
        task_create_missing_queues=False,
        task_send_sent_event=False,
        # Over RabbitMQ a worker that had its prefetch reduced when the connection was lost takes no more messages.
        worker_disable_prefetch=over_redis,
        worker_enable_prefetch_count_reduction=over_redis,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": f"{prefix}celery:",
            # Leases protect the jobs. A list of unacknowledged messages would cost two round trips a message, and a
            # worker of Celery 5.7.0 exits when it restores that list after the broker has died.
            "ack_emulation": False,
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # A publisher fails at once when the broker is down: the plan keeps the job and starts it again.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0,
            "interval_max": 0,
        },
        event_queue_prefix="celeryev",
        result_backend=None,
        enable_utc=True,
        timezone="UTC",
    )
    return app
