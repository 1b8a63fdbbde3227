"""Evaluation of models on the questions of shards; the command is ``evaluate.py``."""
