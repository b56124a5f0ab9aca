"""Background tasks: ingest, schedules, cleaning of indexes."""
