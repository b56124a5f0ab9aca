"""What runs in Celery: edits, ingest and webhook deliveries, and the dialects of the endpoints."""
