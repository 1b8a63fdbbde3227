"""What the 7B shape costs on one GPU: ``python -m benchmarks.full_size``."""
