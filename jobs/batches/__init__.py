"""Batches: from a manifest to jobs, and from jobs to results."""
