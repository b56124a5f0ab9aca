"""Fixtures and harnesses. `tests/README.md` lists them by purpose."""
