"""The media types of pictures that Retouch accepts."""

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
"""The file name extension of each accepted media type."""
