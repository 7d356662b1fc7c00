"""Benchmarks: ratios against something else in the same run on the same machine, never a timed test."""
