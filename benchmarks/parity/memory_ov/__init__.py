"""Compares our parts with recordings of the Memory-Augmented VLM code: ``meta.json`` and ``segments.json``."""
