"""Benchmarks. Each prints its figures next to a comparison that was measured in the same run.

Machines are noisy: trust ratios more than absolute figures, and CPU time a job more than throughput.
"""
