"""The submit API: HTTP in, calls on `jobs` out."""
