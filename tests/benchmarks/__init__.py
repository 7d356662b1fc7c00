"""The benchmarks' own logic; what they measure is no test."""
