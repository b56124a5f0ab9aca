"""The commands of `retouch`, by subject."""
