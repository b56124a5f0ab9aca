"""Tenants: their API keys, quotas and webhook secrets."""
