"""Compares speed and memory of the memory bridges with the published code."""
