"""Schedules: batches that start at the ticks of a cron expression."""
