"""What a batch leaves: results, rejects, contact sheet and archive."""
