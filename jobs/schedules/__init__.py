"""Schedules: batches that start by the clock."""
