"""Compares our parts with recordings of the original code: ``python -m benchmarks.parity --goldens DIR``."""
