"""The edit models that are configured, and how each one is doing."""
