"""Benchmarks: rivals in turn in one run, medians and ratios; see docs/benchmarks.md."""
