"""The worker process: Celery app, consumer, threads, heartbeat, metrics."""
