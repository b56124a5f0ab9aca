"""What operators read, and the cleaning of indexes."""
