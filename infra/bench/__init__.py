"""Benchmarks. Each prints figures beside what they are compared to in the same run: machines are noisy, ratios less so."""
