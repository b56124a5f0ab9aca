"""Flower, which shows every edit, ingest and delivery as Celery ran it: how it is run, and pictures of its pages."""
