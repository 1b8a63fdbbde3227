"""Measures a 7B model on one GPU: ``python -m benchmarks.full_size``."""
