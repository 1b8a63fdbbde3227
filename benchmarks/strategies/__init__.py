"""Measures memory, checkpoints and exactness of every strategy: ``python -m benchmarks.strategies``."""
