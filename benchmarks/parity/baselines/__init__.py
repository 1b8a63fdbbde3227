"""Compares the field's other methods with recordings of their original functions."""
