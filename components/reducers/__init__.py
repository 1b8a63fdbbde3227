"""Leaves fewer tokens of a segment before a reader reads them."""
