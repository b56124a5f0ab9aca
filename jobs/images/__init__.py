"""Pictures: probing their format and size, and reading them out of `data:` URLs."""
