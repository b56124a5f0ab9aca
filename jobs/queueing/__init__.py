"""Publishing to Celery: edits, deliveries and background tasks."""
