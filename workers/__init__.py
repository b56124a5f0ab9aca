"""The Celery tasks: edits, background tasks and webhook deliveries; and the dialects of the endpoints."""
