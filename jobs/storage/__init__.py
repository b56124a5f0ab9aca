"""The S3-compatible bucket: objects, their keys, conditional writes and streams."""
