"""Fixtures and harnesses. README.md of `tests/` says which to use."""
