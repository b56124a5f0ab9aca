"""Sending webhooks: reading the outbox, and one delivery attempt."""
