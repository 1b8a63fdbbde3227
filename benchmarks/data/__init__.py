"""Compares reading training data with decoding alone."""
