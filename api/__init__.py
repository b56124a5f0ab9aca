"""The HTTP API: it reads requests, calls `jobs`, and renders responses."""
