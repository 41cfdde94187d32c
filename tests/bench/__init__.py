"""Benchmarks: measured on this machine, beside a bare loop over the same libraries. Run as `python -m tests.bench`."""
