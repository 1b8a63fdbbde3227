"""Checkpoints that every strategy and any number of ranks can open, written whole or not at all."""
