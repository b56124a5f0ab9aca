"""The results of batches: results files, rejects, contact sheet and archive."""
