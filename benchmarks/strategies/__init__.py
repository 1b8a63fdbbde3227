"""What a rank holds, writes and loses in exactness under every strategy: ``python -m benchmarks.strategies``."""
