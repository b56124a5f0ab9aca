"""Benchmarks. Each prints figures beside what they are compared to in the same run: machines are noisy.

Ratios are what to trust; CPU time a job is steadier than throughput.
"""
