"""Flower, the dashboard of Celery tasks: its configuration, its start, and screenshots for the documentation."""
