"""How fast, compared with what: `python -m benchmarks --help`, and README.md beside this file."""
